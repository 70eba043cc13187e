package uplink

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// end writes the markers of the first n. When the target refuses, the error tells of all.
func (t *kafkaTarget) end(ctx context.Context, all []hung, n int) error {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for _, h := range all[:n] {
		topic := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		topic.Topic, topic.Partitions = h.topic, []int32{h.index}
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.ProducerEpoch, m.CoordinatorEpoch, m.Committed = h.ProducerID, int16(h.ProducerEpoch), max(0, h.CoordinatorEpoch), h.commit
		m.Topics = append(m.Topics, topic)
		req.Markers = append(req.Markers, m)
	}
	var failed error
	done := map[spot]bool{}
	for _, shard := range t.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			failed = shard.Err
			continue
		}
		for _, m := range shard.Resp.(*kmsg.WriteTxnMarkersResponse).Markers {
			for _, topic := range m.Topics {
				for _, p := range topic.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						failed = err
					}
					done[spot{topic.Topic, p.Partition}] = p.ErrorCode == 0
				}
			}
		}
	}
	for _, h := range all[:n] {
		if done[h.spot] {
			t.logger.Warn("a transaction was ended that the target's coordinator had ended already, and that a partition of it held open", "topic", h.topic, "partition", h.index,
				"since", h.CurrentTxnStartOffset, "producer", h.ProducerID, "epoch", h.ProducerEpoch, "commit", h.commit, "why", h.why)
		} else if failed == nil {
			failed = errors.New("the target does not say whether it has done it")
		}
	}
	if failed != nil {
		return t.cannotEnd(all, n, failed)
	}
	return nil
}

// maxTold bounds how many an error names; the rest is told when those are ended.
const maxTold = 32

// cannotEnd says what hangs and how to get out of it.
func (t *kafkaTarget) cannotEnd(all []hung, n int, err error) error {
	var what, byHand []string
	commit := false
	for i, h := range all[:min(len(all), maxTold)] {
		what = append(what, fmt.Sprintf("%s, since offset %d (producer %d, epoch %d)", h.spot, h.CurrentTxnStartOffset, h.ProducerID, h.ProducerEpoch))
		byHand = append(byHand, fmt.Sprintf("kafka-transactions.sh --bootstrap-server %s abort --topic %s --partition %d --start-offset %d", t.cfg.to[0], h.topic, h.index, h.CurrentTxnStartOffset))
		commit = commit || i < n && h.commit
	}
	if more := len(all) - maxTold; more > 0 {
		what = append(what, fmt.Sprintf("%d more", more))
	}
	text := fmt.Sprintf("the target's coordinator has ended transactions of %s that partitions still hold open: %s", t.transactionalID(), strings.Join(what, "; "))
	if !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return fmt.Errorf("%s: end them: %w", text, err)
	}
	user := "User:NAME"
	if t.cfg.SASL.User != "" {
		user = "User:" + t.cfg.SASL.User
	}
	text += fmt.Sprintf("; to end them as they were decided, this uplink needs a permission: kafka-acls.sh --bootstrap-server %s --add --allow-principal %s --operation ClusterAction --cluster", t.cfg.to[0], user)
	if commit {
		return fmt.Errorf("%s; not to be aborted by hand, they were committed: %w", text, err)
	}
	return fmt.Errorf("%s; or, by hand: %s: %w", text, strings.Join(byHand, "; "), err)
}
