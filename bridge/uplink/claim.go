package uplink

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A site is one cluster's. Two gateways with one node.site, a copied configuration for the most part, write into the same topics at the target; only weir.origin tells their
// records apart. So each cluster claims its site there, in its first transaction: key site/<site>. Who finds the claim of another says so, takes the site over and carries:
// it may as well be the gateway that replaces a broken one, and then it finds its own claim the next time.

// claim is the value.
type claim struct {
	Cluster string `json:"cluster"`
	Uplink  string `json:"uplink"`
	At      int64  `json:"at"` // milliseconds since 1970
}

func (k *progressTopic) claimKey() string { return "site/" + k.site }

// claim looks who has the site. The record is to be written when it is not this cluster; the warning is for an operator when it is another one.
func (k *progressTopic) claim(ctx context.Context, conn []kgo.Opt, admin *kadm.Client) (write *kgo.Record, warning string, err error) {
	start, end, err := k.extent(ctx, admin, k.claims)
	if err != nil {
		return nil, "", err
	}
	var last claim
	if err := k.scan(ctx, conn, k.claims, start, end, func(r *kgo.Record) error {
		if string(r.Key) != k.claimKey() {
			return nil
		}
		last = claim{}
		if r.Value == nil { // an operator took it back
			return nil
		}
		return json.Unmarshal(r.Value, &last)
	}); err != nil {
		return nil, "", err
	}
	if last.Cluster == k.cluster {
		return nil, "", nil
	}
	value, err := json.Marshal(claim{k.cluster, k.uplink, time.Now().UnixMilli()})
	if err != nil {
		panic("BUG: a claim cannot be written: " + err.Error())
	}
	if last.Cluster != "" {
		warning = fmt.Sprintf("node.site %q was claimed at the target by the cluster %s (uplink %s, %s), and this is %s: two gateways with one site write into the same topics, where only the header %s tells "+
			"their records apart. Give one of them another node.site; if this one replaces the other, nothing is to be done",
			k.site, last.Cluster, last.Uplink, time.UnixMilli(last.At).UTC().Format(time.RFC3339), k.cluster, OriginHeader)
	}
	return &kgo.Record{Topic: ProgressTopic, Partition: k.claims, Key: []byte(k.claimKey()), Value: value}, warning, nil
}
