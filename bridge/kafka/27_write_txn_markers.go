package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/log"
)

// WriteTxnMarkers (key 27): v1–2
//
// For an operator who ends a transaction by hand (kafka-transactions abort): the coordinator sends its markers another way. Of partitions that this
// broker leads; answered when the markers are committed. A coordinator epoch below that of the last marker is refused, and one that no coordinator
// has had yet: the markers of those there are would be refused after it.
//
//	v2  transaction.version of the marker (KIP-1228): from 2 on it ends no transaction of its own epoch
func (s *Server) writeTxnMarkers(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.WriteTxnMarkersRequest)
	resp := kmsg.NewPtrWriteTxnMarkersResponse()
	n, newest := 0, int32(-1)
	for _, m := range req.Markers {
		for _, t := range m.Topics {
			n += len(t.Partitions)
		}
	}
	if err := tooMany(n); err != nil {
		return nil, err
	}
	if t := s.broker.Image().Topic(transactionsTopic); t != nil {
		for i := range t.Partitions {
			newest = max(newest, int32(t.Partitions[i].LeaderEpoch))
		}
	}
	for _, m := range req.Markers {
		s.log.Info("kafka: a transaction is ended by hand", "client", c.clientID, "producer", m.ProducerID, "epoch", m.ProducerEpoch, "commit", m.Committed)
		rm := kmsg.NewWriteTxnMarkersResponseMarker()
		rm.ProducerID = m.ProducerID
		for _, t := range m.Topics {
			rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			rt.Topic = t.Topic
			for _, i := range t.Partitions {
				rp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
				rp.Partition = i
				p, code := s.partition(t.Topic, i)
				if t := s.topic([]byte(t.Topic)); m.ProducerID < 0 || m.ProducerEpoch < 0 || m.CoordinatorEpoch > newest || t != nil && t.internal {
					code = errInvalidRequest
				}
				if rp.ErrorCode = code; code == errNone {
					rp.ErrorCode = codeOf(s.broker.EndTransaction(ctx, []log.PartitionID{p.ID()}, log.Marker{
						ProducerID: m.ProducerID, ProducerEpoch: m.ProducerEpoch, Commit: m.Committed, CoordinatorEpoch: m.CoordinatorEpoch, Own: m.TransactionVersion >= txn.V2,
					})[0])
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			rm.Topics = append(rm.Topics, rt)
		}
		resp.Markers = append(resp.Markers, rm)
	}
	return resp, nil
}
