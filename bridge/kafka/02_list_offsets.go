package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// Special timestamps of ListOffsets.
const (
	timeLatest          = -1
	timeEarliest        = -2
	timeMax             = -3 // KIP-734
	timeEarliestLocal   = -4 // KIP-405: of what is not in remote storage only
	timeLatestTiered    = -5 // KIP-1005: of what is in remote storage
	timeEarliestPending = -6 // KIP-1023: of what is still to go there
)

// ListOffsets (key 2): v1–11
//
// The first committed offset stamped at or after a time; -1 when there is none.
//
// After an election the high watermark may lie below what consumers have seen, until all of
// the earlier terms is known to be committed: there is no answer about the end meanwhile (R3).
//
//	v2  isolation level: no transactions, so both levels see the high watermark (R3)
//	v4  current leader epoch, checked; the answer's epoch
//	v5  OFFSET_NOT_AVAILABLE; LEADER_NOT_AVAILABLE before
//	v6  flexible
//	v7  the record with the greatest timestamp
//	v8  the first offset on local disks: all is there
//	v9  the last one in remote storage: there is none, and -1 says so
//	v10 how long remote storage may be waited for
//	v11 the first one that is to go to remote storage: none is
func (s *Server) listOffsets(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListOffsetsRequest)
	resp := kmsg.NewPtrListOffsetsResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, s.listOffset(t.Topic, p, req.Version))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *Server) listOffset(topic string, req kmsg.ListOffsetsRequestTopicPartition, version int16) kmsg.ListOffsetsResponseTopicPartition {
	resp := kmsg.NewListOffsetsResponseTopicPartition()
	resp.Partition, resp.Offset, resp.Timestamp = req.Partition, -1, -1
	p, code := s.partitionIn(topic, req.Partition, req.CurrentLeaderEpoch)
	if code != errNone {
		resp.ErrorCode = code
		return resp
	}
	answerOffset(p, req.Timestamp, version, &resp)
	return resp
}

// offsets is what a partition's leader knows of its offsets (cluster.Partition).
type offsets interface {
	LogStart() log.Offset
	HighWatermark() log.Offset
	Settled() bool
	LeaderEpoch() log.Epoch
	OffsetForTime(ts int64) (log.Offset, int64, error)
}

func answerOffset(p offsets, ts int64, version int16, resp *kmsg.ListOffsetsResponseTopicPartition) {
	settled := p.Settled() // first: what is looked up then is no older
	var err error
	switch {
	case ts == timeLatest:
		resp.Offset = int64(p.HighWatermark())
	case ts == timeEarliest || ts == timeEarliestLocal && version >= 8:
		resp.Offset = int64(p.LogStart())
	case ts == timeMax && version >= 7:
		resp.Offset, resp.Timestamp, err = maxTimestamp(p)
	case ts == timeLatestTiered && version >= 9 || ts == timeEarliestPending && version >= 11:
		return
	case ts < 0:
		resp.ErrorCode = errUnsupportedVersion
		return
	default:
		resp.Offset, resp.Timestamp, err = offsetForTime(p, ts)
	}
	switch {
	case err != nil:
		resp.ErrorCode, resp.Offset, resp.Timestamp = codeOf(err), -1, -1
	case !settled && (ts == timeLatest || ts == timeMax || resp.Offset < 0):
		resp.Offset, resp.Timestamp = -1, -1
		if resp.ErrorCode = errOffsetNotAvailable; version < 5 {
			resp.ErrorCode = errLeaderNotAvailable
		}
	case resp.Offset >= 0:
		resp.LeaderEpoch = int32(p.LeaderEpoch())
	}
}

func offsetForTime(p offsets, ts int64) (offset, at int64, err error) {
	o, at, err := p.OffsetForTime(ts)
	return int64(o), at, err
}

// maxTimestamp narrows down the greatest time that some record is not older than. It costs
// some sixty lookups; admin tools ask for it, consumers do not.
func maxTimestamp(p offsets) (offset, at int64, err error) {
	offset, at = -1, -1
	low, high := int64(0), int64(1)<<62
	for low < high {
		mid := low + (high-low)/2
		o, t, err := offsetForTime(p, mid)
		switch {
		case err != nil:
			return -1, -1, err
		case o < 0:
			high = mid
		default:
			offset, at, low = o, t, max(t, mid)+1
		}
	}
	if offset < 0 {
		return -1, -1, nil
	}
	return offsetForTime(p, low-1)
}
