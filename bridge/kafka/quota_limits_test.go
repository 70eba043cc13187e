package kafka

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
)

// imageOf has the quota of a kind for each of the entities, the first 1, the next 2 …
func imageOf(t testing.TB, name string, entities ...meta.QuotaEntity) *meta.Image {
	t.Helper()
	cmd := new(meta.AlterClientQuotas)
	for i, e := range entities {
		cmd.Quotas = append(cmd.Quotas, meta.ClientQuotas{Entity: e, Values: map[string]float64{name: float64(i + 1)}})
	}
	im, _, err := meta.NewImage().Apply(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func userQuota(name string) meta.QuotaEntity {
	return meta.QuotaEntity{Kinds: meta.QuotaUser, User: name}
}
func clientQuota(name string) meta.QuotaEntity {
	return meta.QuotaEntity{Kinds: meta.QuotaClient, Client: name}
}
func bothQuota(user, client string) meta.QuotaEntity {
	return meta.QuotaEntity{Kinds: meta.QuotaUser | meta.QuotaClient, User: user, Client: client}
}

// The order in which Kafka documents that quotas of a client are looked for: with each taken away the next one counts. Who shares a quota shares its meter.
func TestQuotaPrecedence(t *testing.T) {
	entities := []meta.QuotaEntity{
		bothQuota("u", "c"), bothQuota("u", ""), userQuota("u"), bothQuota("", "c"), bothQuota("", ""), userQuota(""), clientQuota("c"), clientQuota(""),
	}
	meters := []meta.QuotaEntity{
		bothQuota("u", "c"), bothQuota("u", "c"), userQuota("u"), bothQuota("u", "c"), bothQuota("u", "c"), userQuota("u"), clientQuota("c"), clientQuota("c"),
	}
	for gone := range len(entities) + 1 {
		l := newQuotaLimits(imageOf(t, "producer_byte_rate", entities[gone:]...))
		got := l.find(quotaProduce, "u", "c")
		if gone == len(entities) {
			if got.perSecond != 0 {
				t.Errorf("without any quota: %+v", got)
			}
			break
		}
		if got.perSecond != 1 || got.client != (meterKey{quotaProduce, meters[gone]}) || got.rule != (meterKey{quotaProduce, entities[gone]}) {
			t.Errorf("without the first %d: %+v", gone, got)
		}
		if other := l.find(quotaFetch, "u", "c"); other.perSecond != 0 {
			t.Errorf("of another kind: %+v", other)
		}
	}
}

// Defaults are for those without a name too, who have no other; and names of any length share what is kept for all of them.
func TestQuotasOfOtherClients(t *testing.T) {
	l := newQuotaLimits(imageOf(t, "consumer_byte_rate", userQuota("u"), clientQuota("c"), clientQuota("")))
	long := strings.Repeat("x", meta.MaxQuotaName+1)
	for name, c := range map[string]struct {
		user, client string
		want         float64
		meter        meta.QuotaEntity
	}{
		"another user":  {"v", "c", 2, clientQuota("c")},
		"another id":    {"v", "d", 3, clientQuota("d")},
		"no id":         {"v", "", 3, clientQuota("")},
		"a long id":     {"v", long, 3, clientQuota("")},
		"all his":       {"u", "d", 1, userQuota("u")},
		"all his again": {"u", "c", 1, userQuota("u")},
	} {
		if got := l.find(quotaFetch, c.user, c.client); got.perSecond != c.want || got.client.QuotaEntity != c.meter {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestQuotasOfAddresses(t *testing.T) {
	l := newQuotaLimits(imageOf(t, "connection_creation_rate", meta.QuotaEntity{Kinds: meta.QuotaIP, IP: "10.0.0.1"}, meta.QuotaEntity{Kinds: meta.QuotaIP}))
	for ip, want := range map[string]float64{"10.0.0.1": 1, "10.0.0.2": 2} {
		if got := l.findIP(quotaConnection, ip); got.perSecond != want || got.client.IP != ip {
			t.Errorf("%s: %+v", ip, got)
		}
	}
	if got := l.find(quotaConnection, "10.0.0.1", "c"); got.perSecond != 0 {
		t.Errorf("a user: %+v", got)
	}
}

// What may be set is what is honoured, by the kind of the entity.
func TestQuotasThatAreHonoured(t *testing.T) {
	for kinds, want := range map[meta.QuotaKinds]string{
		meta.QuotaUser: "producer_byte_rate consumer_byte_rate controller_mutation_rate", meta.QuotaIP: "connection_creation_rate",
		meta.QuotaUser | meta.QuotaClient: "producer_byte_rate consumer_byte_rate controller_mutation_rate",
	} {
		var got []string
		for _, name := range append(quotaNames[:], "request_percentage", "bytes", "") {
			if checkQuota(kinds, name, 1, false) == nil {
				got = append(got, name)
			}
		}
		if fmt.Sprint(got) != "["+want+"]" {
			t.Errorf("kinds %d: %v", kinds, got)
		}
	}
}
