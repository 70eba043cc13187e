package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/meta"
)

// DescribeClientQuotas (key 48): v0–1
//
// The quotas of the entities that a filter chooses. Each component of it names a kind (user, client-id, ip) that an entity must be of, by one name, as the default,
// or in any way; strict, it may be of no other kind.
//
//	v1  flexible
func (s *Server) describeClientQuotas(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeClientQuotasRequest)
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	chosen, err := quotaFilter(req)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = errInvalidRequest, new(err.Error())
		return resp, nil
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{} // null would be an error
	for _, q := range s.broker.Image().ClientQuotas() {
		if !chosen(q.Entity) {
			continue
		}
		re := kmsg.NewDescribeClientQuotasResponseEntry()
		for _, k := range quotaKindNames {
			if q.Entity.Kinds&k.kind != 0 {
				re.Entity = append(re.Entity, kmsg.DescribeClientQuotasResponseEntryEntity{Type: k.name, Name: optional(*k.of(&q.Entity))})
			}
		}
		for _, key := range slices.Sorted(maps.Keys(q.Values)) {
			re.Values = append(re.Values, kmsg.DescribeClientQuotasResponseEntryValue{Key: key, Value: q.Values[key]})
		}
		resp.Entries = append(resp.Entries, re)
	}
	return resp, nil
}

// quotaKindNames are the kinds of entities in Kafka's words, with the place of the name. A name that is null there is empty here: the default.
var quotaKindNames = []struct {
	name string
	kind meta.QuotaKinds
	of   func(*meta.QuotaEntity) *string
}{
	{"user", meta.QuotaUser, func(e *meta.QuotaEntity) *string { return &e.User }},
	{"client-id", meta.QuotaClient, func(e *meta.QuotaEntity) *string { return &e.Client }},
	{"ip", meta.QuotaIP, func(e *meta.QuotaEntity) *string { return &e.IP }},
}

// nameOfKind finds the place of an entity's name; an error where there is no such kind, or the entity has it already.
func nameOfKind(e *meta.QuotaEntity, kind string) (*string, error) {
	for _, k := range quotaKindNames {
		switch {
		case k.name != kind:
		case e.Kinds&k.kind != 0:
			return nil, fmt.Errorf("%s is named twice", kind)
		default:
			e.Kinds |= k.kind
			return k.of(e), nil
		}
	}
	return nil, fmt.Errorf("%.40q is no kind of entity: want user, client-id or ip", kind)
}

// Ways in which a component of a filter chooses.
const (
	matchExact   kmsg.QuotasMatchType = 0
	matchDefault kmsg.QuotasMatchType = 1
	matchAny     kmsg.QuotasMatchType = 2
)

// quotaFilter says which entities a request is about.
func quotaFilter(req *kmsg.DescribeClientQuotasRequest) (func(meta.QuotaEntity) bool, error) {
	var want, byName meta.QuotaEntity // of byName only the kinds count, which are chosen by want's name
	for _, component := range req.Components {
		name, err := nameOfKind(&want, component.EntityType)
		switch {
		case err != nil:
			return nil, err
		case component.MatchType == matchExact && (component.Match == nil || *component.Match == ""):
			return nil, fmt.Errorf("%s is to be matched exactly, and no name is given", component.EntityType)
		case component.MatchType == matchExact:
			*name = *component.Match
			if component.EntityType == "ip" {
				if *name, err = quotaAddress(*name); err != nil {
					return nil, err
				}
			}
		case component.MatchType != matchDefault && component.MatchType != matchAny:
			return nil, fmt.Errorf("%d is no way to match: want 0, 1 or 2", component.MatchType)
		case component.Match != nil:
			return nil, fmt.Errorf("%s is not to be matched by a name, and %.40q is given", component.EntityType, *component.Match)
		}
		if component.MatchType != matchAny {
			_, _ = nameOfKind(&byName, component.EntityType) // the kind is good, and new
		}
	}
	if want.Kinds&meta.QuotaIP != 0 && want.Kinds != meta.QuotaIP {
		return nil, errMixedEntity
	}
	return func(e meta.QuotaEntity) bool {
		if e.Kinds&want.Kinds != want.Kinds || req.Strict && e.Kinds != want.Kinds {
			return false
		}
		for _, k := range quotaKindNames {
			if byName.Kinds&k.kind != 0 && *k.of(&e) != *k.of(&want) {
				return false
			}
		}
		return true
	}, nil
}
