package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Apache Kafka gives the transactional id another producer id each time that the epochs of one are used up: with transactions of version 2 after 32,767 of them, which are hours. What hangs
// then is of the one before, which a node that has just begun, or has just taken the shard over, would not know as this uplink's (U11). So they are stored.

// producerIDs are the last of a shard at one target.
type producerIDs struct {
	Topic string  `json:"topic"` // id of weir.uplinks there: elsewhere these are others' producers
	IDs   []int64 `json:"ids"`
}

// at gives those that count at the target that has this topic.
func (p producerIDs) at(topic kadm.TopicID) []int64 {
	if p.Topic != topic.String() {
		return nil
	}
	return slices.Clone(p.IDs)
}

// producersKey is where the shard keeps them.
func (f *Forwarder) producersKey() []byte {
	return fmt.Appendf(nil, "producers/%s/%d", f.Config.Name, f.Shard)
}

func (f *Forwarder) takeProducers(value []byte) error {
	if value == nil {
		return nil
	}
	f.producers = string(value)
	if err := json.Unmarshal(value, &f.seen.stored); err != nil {
		return fmt.Errorf("its producers at the target: %w", err)
	}
	return nil
}

// producersNow is what is to be stored.
func (f *Forwarder) producersNow() string {
	if len(f.seen.ids) == 0 {
		return f.producers
	}
	text, err := json.Marshal(producerIDs{f.seen.topic.String(), f.seen.ids})
	if err != nil {
		panic("BUG: producers cannot be written: " + err.Error())
	}
	return string(text)
}

// mine says whether what a producer holds open in a partition is this shard's: of an id that was stored only if what is written there is this cluster's as well, for a target that was
// restored from a copy may have given it to somebody else since.
func (t *kafkaTarget) mine(ctx context.Context, conn []kgo.Opt, s spot, p producer) (is bool, err error) {
	if !slices.Contains(t.seen.ids, p.ProducerID) || !slices.Contains(t.seen.stored.IDs, p.ProducerID) {
		return slices.Contains(t.seen.ids, p.ProducerID), nil
	}
	err = readExtent(ctx, conn, extent{s.topic, s.index, p.CurrentTxnStartOffset, p.CurrentTxnStartOffset + 1}, nil, func(r *kgo.Record) error {
		_, origin := t.origin(r)
		is = r.ProducerID == p.ProducerID && (origin || s.topic == ProgressTopic && t.keeper.wrote(r.Key))
		return nil
	})
	return is, err
}

// wrote says whether a record of the topic of cursors is this uplink's.
func (k *progressTopic) wrote(key []byte) bool {
	return bytes.HasPrefix(key, []byte(k.prefix())) || bytes.HasPrefix(key, []byte("gap/"+k.cluster+"/")) || k.site != "" && string(key) == k.claimKey()
}
