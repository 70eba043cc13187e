package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
)

// AlterClientQuotas (key 49): v0–1
//
// Sets and removes quotas of users, client ids, users' client ids and addresses, or of all those that have none of their own (a null name). Each entity stands for
// itself; what is taken comes into force together, on every node, and each node counts by itself. A quota that is not honoured is refused.
//
//	v1  flexible
func (s *Server) alterClientQuotas(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AlterClientQuotasRequest)
	if err := tooMany(len(req.Entries)); err != nil {
		return nil, err
	}
	resp := kmsg.NewPtrAlterClientQuotasResponse()
	changes := make([]cluster.QuotaChange, len(req.Entries))
	faults := make([]error, len(req.Entries))
	times := make(map[meta.QuotaEntity]int)
	for i := range req.Entries {
		if changes[i], faults[i] = quotaChange(&req.Entries[i]); faults[i] == nil {
			times[changes[i].Entity]++
		}
	}
	var good []cluster.QuotaChange
	for i := range changes {
		switch {
		case faults[i] != nil:
		case times[changes[i].Entity] > 1:
			faults[i] = errors.New("the entity is in the request more than once")
		default:
			good = append(good, changes[i])
		}
	}
	var err error
	if len(good) > 0 {
		ctx, done := controllerWait(ctx, 0)
		defer done()
		err = s.broker.AlterClientQuotas(ctx, good, req.ValidateOnly)
	}
	for i := range req.Entries {
		re := quotaAnswer(&req.Entries[i])
		switch {
		case faults[i] != nil:
			re.ErrorCode, re.ErrorMessage = errInvalidRequest, new(faults[i].Error())
		case err != nil:
			re.ErrorCode, re.ErrorMessage = codeOf(err), new(err.Error())
		}
		resp.Entries = append(resp.Entries, re)
	}
	if len(good) > 0 && err == nil && !req.ValidateOnly {
		s.log.Info("kafka: quotas changed", "entities", len(good))
	}
	return resp, nil
}

func quotaAnswer(entry *kmsg.AlterClientQuotasRequestEntry) kmsg.AlterClientQuotasResponseEntry {
	re := kmsg.NewAlterClientQuotasResponseEntry()
	for _, e := range entry.Entity {
		re.Entity = append(re.Entity, kmsg.AlterClientQuotasResponseEntryEntity{Type: e.Type, Name: e.Name})
	}
	return re
}

var errMixedEntity = errors.New("ip goes with no user and no client-id")

// quotaChange reads an entry, and says what is wrong with it.
func quotaChange(entry *kmsg.AlterClientQuotasRequestEntry) (ch cluster.QuotaChange, err error) {
	for _, e := range entry.Entity {
		name, err := nameOfKind(&ch.Entity, e.Type)
		switch {
		case err != nil:
			return ch, err
		case e.Name == nil:
			continue
		case *e.Name == "" || len(*e.Name) > meta.MaxQuotaName:
			return ch, fmt.Errorf("%s has a name of %d bytes: want 1 to %d, or null for the default", e.Type, len(*e.Name), meta.MaxQuotaName)
		}
		if *name = *e.Name; e.Type == "ip" {
			if *name, err = quotaAddress(*name); err != nil {
				return ch, err
			}
		}
	}
	switch kinds := ch.Entity.Kinds; {
	case kinds == 0:
		return ch, errors.New("no entity is named: want user, client-id or ip")
	case kinds&meta.QuotaIP != 0 && kinds != meta.QuotaIP:
		return ch, errMixedEntity
	}
	ch.Set = make(map[string]float64)
	seen := make(map[string]bool)
	for _, op := range entry.Ops {
		if seen[op.Key] {
			return ch, fmt.Errorf("quota %.40q is given twice", op.Key)
		}
		seen[op.Key] = true
		if err := checkQuota(ch.Entity.Kinds, op.Key, op.Value, op.Remove); err != nil {
			return ch, err
		}
		if op.Remove {
			ch.Remove = append(ch.Remove, op.Key)
		} else {
			ch.Set[op.Key] = op.Value
		}
	}
	return ch, nil
}

// checkQuota says why an entity of those kinds cannot have the quota. To remove what cannot be there is no fault.
func checkQuota(kinds meta.QuotaKinds, key string, value float64, remove bool) error {
	fractions := key == quotaNames[quotaMutation]
	switch {
	case key == "request_percentage" && kinds != meta.QuotaIP:
		if remove {
			return nil
		}
		return errors.New("request_percentage is not honoured: requests have no threads of their own here whose time could be shared out; " +
			"limit bytes with producer_byte_rate and consumer_byte_rate, and what is made and deleted with controller_mutation_rate")
	case !honours(kinds, key):
		return fmt.Errorf("%.40q is no quota of this entity: users and client ids have producer_byte_rate, consumer_byte_rate and controller_mutation_rate, "+
			"an ip connection_creation_rate", key)
	case remove:
		return nil
	case !(value > 0) || value > math.MaxInt64:
		return fmt.Errorf("%s=%v: want more than 0, a second", key, value)
	case !fractions && value != math.Trunc(value):
		return fmt.Errorf("%s=%v: want a whole number", key, value)
	}
	return nil
}

// quotaAddress is an address as connections are known by it. Names of hosts are not looked up: what they mean changes.
func quotaAddress(text string) (string, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return "", fmt.Errorf("ip %.60q: want an address, as 10.0.0.7 or fd00::7", text)
	}
	return a.Unmap().WithZone("").String(), nil
}
