package meta

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

func quotas(e QuotaEntity, values map[string]float64) ClientQuotas { return ClientQuotas{e, values} }

// Quotas of an entity are replaced as a whole, survive a snapshot and a recovery of the quorum, and are gone when they are none. A default is not a name.
func TestClientQuotas(t *testing.T) {
	user, anybody, both := QuotaEntity{Kinds: QuotaUser, User: "u"}, QuotaEntity{Kinds: QuotaUser}, QuotaEntity{Kinds: QuotaUser | QuotaClient, User: "u", Client: "c"}
	one, two := map[string]float64{"a": 1}, map[string]float64{"b": 2.5}
	im := NewImage()
	alter := func(all ...ClientQuotas) {
		t.Helper()
		im = mustApply(t, im, &AlterClientQuotas{Expect: im.QuotasVersion, Quotas: all})
	}
	alter(quotas(both, one), quotas(user, one), quotas(anybody, one), quotas(QuotaEntity{Kinds: QuotaIP, IP: "::1"}, one))
	alter(quotas(user, two), quotas(QuotaEntity{Kinds: QuotaIP, IP: "::1"}, nil), quotas(QuotaEntity{Kinds: QuotaClient}, nil))
	again, err := DecodeImage(bytes.NewReader(encoded(t, im)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err = again.BeginGeneration(1); err != nil {
		t.Fatal(err)
	}
	want := []ClientQuotas{{anybody, one}, {user, two}, {both, one}}
	same := func(a, b ClientQuotas) bool { return a.Entity == b.Entity && maps.Equal(a.Values, b.Values) }
	if got := again.ClientQuotas(); !slices.EqualFunc(got, want, same) || again.QuotasVersion != im.QuotasVersion {
		t.Errorf("quotas after a snapshot and a recovery: %v of version %d", got, again.QuotasVersion)
	}
	if again.QuotasOf(user)["b"] != 2.5 || again.QuotasOf(QuotaEntity{Kinds: QuotaClient, Client: "c"}) != nil {
		t.Errorf("%v", again.ClientQuotas())
	}
}

// C1: what was decided on quotas that are not those of now is refused, and so is what is none, or one too many.
func TestClientQuotasRefused(t *testing.T) {
	user, one := QuotaEntity{Kinds: QuotaUser, User: "u"}, map[string]float64{"a": 1}
	im := mustApply(t, NewImage(), &AlterClientQuotas{Quotas: []ClientQuotas{{user, one}}})
	many := make(map[string]float64)
	for i := range maxQuotaValues + 1 {
		many[fmt.Sprint(i)] = 1
	}
	refused := func(name string, want error, cmd *AlterClientQuotas) {
		t.Helper()
		if next, _, err := im.Apply(cmd); !errors.Is(err, want) || next != im {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused("moved on", ErrConflict, &AlterClientQuotas{Expect: im.QuotasVersion - 1})
	for name, q := range map[string]ClientQuotas{
		"nobody":           {QuotaEntity{}, one},
		"an unknown kind":  {QuotaEntity{Kinds: 8}, one},
		"with an address":  {QuotaEntity{Kinds: QuotaIP | QuotaUser}, one},
		"an uncounted":     {QuotaEntity{Kinds: QuotaUser, Client: "c"}, one},
		"a long name":      {QuotaEntity{Kinds: QuotaClient, Client: strings.Repeat("c", MaxQuotaName+1)}, one},
		"many values":      {user, many},
		"no key":           {user, map[string]float64{"": 1}},
		"a long key":       {user, map[string]float64{strings.Repeat("k", maxQuotaKey+1): 1}},
		"nothing":          {user, map[string]float64{"a": 0}},
		"less":             {user, map[string]float64{"a": -1}},
		"no number":        {user, map[string]float64{"a": math.NaN()}},
		"more than finite": {user, map[string]float64{"a": math.Inf(1)}},
	} {
		refused(name, ErrRefused, &AlterClientQuotas{Expect: im.QuotasVersion, Quotas: []ClientQuotas{q}})
	}
	full := make([]ClientQuotas, MaxQuotas)
	for i := range full {
		full[i] = quotas(QuotaEntity{Kinds: QuotaClient, Client: fmt.Sprint(i)}, one)
	}
	refused("one too many", ErrRefused, &AlterClientQuotas{Expect: im.QuotasVersion, Quotas: full})
	mustApply(t, im, &AlterClientQuotas{Expect: im.QuotasVersion, Quotas: full[1:]})
}
