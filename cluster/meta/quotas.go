package meta

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Limits of the quotas of clients.
const (
	MaxQuotaName = 1024   // bytes of a user's name, a client id or an address
	MaxQuotas    = 10_000 // entities that have some

	maxQuotaValues = 8 // of one entity
	maxQuotaKey    = 64
)

// QuotaKinds says which of the names of a QuotaEntity count.
type QuotaKinds uint8

const (
	QuotaUser QuotaKinds = 1 << iota
	QuotaClient
	QuotaIP
)

// QuotaEntity is whom quotas are for: a user, a client id, a user's client id, or an address. An empty name that counts is the default of its kind,
// which is for all those that have none of their own.
type QuotaEntity struct {
	Kinds  QuotaKinds `cbor:"1,keyasint"`
	User   string     `cbor:"2,keyasint,omitempty"`
	Client string     `cbor:"3,keyasint,omitempty"`
	IP     string     `cbor:"4,keyasint,omitempty"`
}

// ClientQuotas are the quotas of one entity, by Kafka's names for them.
type ClientQuotas struct {
	Entity QuotaEntity        `cbor:"1,keyasint"`
	Values map[string]float64 `cbor:"2,keyasint"`
}

// AlterClientQuotas gives entities these quotas, in place of those that they had; one with none has none any more. Answers nothing.
type AlterClientQuotas struct {
	Expect uint64         `cbor:"1,keyasint"` // Image.QuotasVersion
	Quotas []ClientQuotas `cbor:"2,keyasint"`
}

func (*AlterClientQuotas) kind() kind { return kindAlterClientQuotas }

// ClientQuotas lists the entities that have quotas, in their order.
func (im *Image) ClientQuotas() []ClientQuotas { return im.quotas }

// QuotasOf are the quotas of one entity, nil if it has none.
func (im *Image) QuotasOf(e QuotaEntity) map[string]float64 {
	if i, found := findQuotas(im.quotas, e); found {
		return im.quotas[i].Values
	}
	return nil
}

func findQuotas(quotas []ClientQuotas, e QuotaEntity) (int, bool) {
	return slices.BinarySearchFunc(quotas, e, func(q ClientQuotas, e QuotaEntity) int { return q.Entity.compare(e) })
}

func (e QuotaEntity) compare(o QuotaEntity) int {
	return cmp.Or(cmp.Compare(e.Kinds, o.Kinds), cmp.Compare(e.User, o.User), cmp.Compare(e.Client, o.Client), cmp.Compare(e.IP, o.IP))
}

func (c *AlterClientQuotas) apply(next *Image) (any, error) {
	if c.Expect != next.QuotasVersion {
		return nil, fmt.Errorf("quotas of clients: at version %d, not %d: %w", next.QuotasVersion, c.Expect, ErrConflict)
	}
	last := make(map[QuotaEntity]ClientQuotas, len(next.quotas)+len(c.Quotas))
	for _, q := range next.quotas {
		last[q.Entity] = q
	}
	for i, q := range c.Quotas {
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("quotas %d: %w: %w", i, err, ErrRefused)
		}
		if last[q.Entity] = q; len(q.Values) == 0 {
			delete(last, q.Entity)
		}
	}
	if len(last) > MaxQuotas {
		return nil, fmt.Errorf("quotas of %d entities, limit %d: set those of a default instead: %w", len(last), MaxQuotas, ErrRefused)
	}
	all := slices.SortedFunc(maps.Values(last), func(a, b ClientQuotas) int { return a.Entity.compare(b.Entity) })
	next.QuotasVersion, next.quotas = next.Version, all
	return nil, nil
}

// check bounds what one entity may have. What the names mean is for who honours them.
func (q *ClientQuotas) check() error {
	e := &q.Entity
	named := func(kind QuotaKinds, name string) bool {
		return name == "" || e.Kinds&kind != 0 && len(name) <= MaxQuotaName
	}
	switch {
	case e.Kinds == 0 || e.Kinds > QuotaIP || !named(QuotaUser, e.User) || !named(QuotaClient, e.Client) || !named(QuotaIP, e.IP):
		return fmt.Errorf("kinds %d with names of %d, %d and %d bytes, limit %d", e.Kinds, len(e.User), len(e.Client), len(e.IP), MaxQuotaName)
	case len(q.Values) > maxQuotaValues:
		return fmt.Errorf("%d values, limit %d", len(q.Values), maxQuotaValues)
	}
	for _, k := range slices.Sorted(maps.Keys(q.Values)) {
		if v := q.Values[k]; k == "" || len(k) > maxQuotaKey || !(v > 0) || math.IsInf(v, 0) {
			return fmt.Errorf("quota %.70q of %v", k, v)
		}
	}
	return nil
}

// checkQuotas is Check for the quotas of clients.
func (im *Image) checkQuotas() error {
	if len(im.quotas) > MaxQuotas || im.QuotasVersion > im.Version {
		return fmt.Errorf("quotas of %d entities, of version %d", len(im.quotas), im.QuotasVersion)
	}
	for i := range im.quotas {
		q := &im.quotas[i]
		if err := q.check(); err != nil {
			return fmt.Errorf("quotas %d: %w", i, err)
		}
		if len(q.Values) == 0 || i > 0 && im.quotas[i-1].Entity.compare(q.Entity) >= 0 {
			return fmt.Errorf("quotas %d: there are none, or they are not in their place", i)
		}
	}
	return nil
}
