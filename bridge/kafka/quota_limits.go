package kafka

import (
	"github.com/weir-io/weir/cluster/meta"
)

// quotaKind is one of the quotas that are honoured.
type quotaKind uint8

const (
	quotaProduce quotaKind = iota
	quotaFetch
	quotaMutation
	quotaConnection
	quotaKinds
)

// quotaNames are Kafka's.
var quotaNames = [quotaKinds]string{"producer_byte_rate", "consumer_byte_rate", "controller_mutation_rate", "connection_creation_rate"}

// meterKey is whose meter, of which quota.
type meterKey struct {
	kind quotaKind
	meta.QuotaEntity
}

// quotaLimits are the quotas of one version of the metadata, by whom they are for. They do not change once made.
type quotaLimits struct {
	version uint64
	of      map[meterKey]float64
	kinds   [quotaKinds][meta.QuotaIP + 1]bool // whether any entity of those kinds has one
}

func newQuotaLimits(im *meta.Image) *quotaLimits {
	l := &quotaLimits{version: im.QuotasVersion, of: make(map[meterKey]float64)}
	for _, q := range im.ClientQuotas() {
		for kind, name := range quotaNames {
			if limit, has := q.Values[name]; has {
				l.of[meterKey{quotaKind(kind), q.Entity}] = limit
				l.kinds[kind][q.Entity.Kinds] = true
			}
		}
	}
	return l
}

// limit is what one client is held to: the first rule that is for him, and the meter that he is counted by. A limit of 0 means that there is none.
type limit struct {
	perSecond    float64
	client, rule meterKey
}

// levels are the places to look for a quota of a user's client, in Kafka's order: that which names more comes first, and the user before the client id.
var levels = []struct {
	kinds        meta.QuotaKinds
	user, client bool // by its name; else the default
}{
	{meta.QuotaUser | meta.QuotaClient, true, true},
	{meta.QuotaUser | meta.QuotaClient, true, false},
	{meta.QuotaUser, true, false},
	{meta.QuotaUser | meta.QuotaClient, false, true},
	{meta.QuotaUser | meta.QuotaClient, false, false},
	{meta.QuotaUser, false, false},
	{meta.QuotaClient, false, true},
	{meta.QuotaClient, false, false},
}

// find is the limit of a user's client. A default is for each of those that it is for by himself, also for a client that has no id. A user's quota is one for
// all his clients.
func (l *quotaLimits) find(kind quotaKind, user, client string) limit {
	for _, level := range levels {
		if !l.kinds[kind][level.kinds] {
			continue
		}
		rule, own := meta.QuotaEntity{Kinds: level.kinds}, meta.QuotaEntity{Kinds: level.kinds}
		if level.kinds&meta.QuotaUser != 0 {
			own.User = user
		}
		if level.kinds&meta.QuotaClient != 0 {
			own.Client = client
		}
		if level.user {
			rule.User = user
		}
		if level.client {
			rule.Client = client
		}
		if level.user && user == "" || level.client && client == "" {
			continue // there is no such name, but a default
		}
		if found, ok := l.at(kind, own, rule); ok {
			return found
		}
	}
	return limit{}
}

// findIP is the limit of an address.
func (l *quotaLimits) findIP(kind quotaKind, ip string) limit {
	if l.kinds[kind][meta.QuotaIP] {
		own := meta.QuotaEntity{Kinds: meta.QuotaIP, IP: ip}
		if found, ok := l.at(kind, own, own); ok {
			return found
		}
		found, _ := l.at(kind, own, meta.QuotaEntity{Kinds: meta.QuotaIP})
		return found
	}
	return limit{}
}

// at is the limit of a rule, if there is one. Names that are too long to be kept have the rule's meter, together.
func (l *quotaLimits) at(kind quotaKind, own, rule meta.QuotaEntity) (limit, bool) {
	perSecond, ok := l.of[meterKey{kind, rule}]
	if len(own.User) > meta.MaxQuotaName || len(own.Client) > meta.MaxQuotaName {
		own = rule
	}
	return limit{perSecond, meterKey{kind, own}, meterKey{kind, rule}}, ok
}

// honours says whether an entity of those kinds may have the quota of that name.
func honours(kinds meta.QuotaKinds, name string) bool {
	for kind, known := range quotaNames {
		if name == known {
			return (quotaKind(kind) == quotaConnection) == (kinds == meta.QuotaIP)
		}
	}
	return false
}
