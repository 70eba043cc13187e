package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTransactions (key 65): v0
//
// Of the transactional ids that this broker coordinates.
func (s *Server) describeTransactions(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeTransactionsRequest)
	resp := kmsg.NewPtrDescribeTransactionsResponse()
	for _, id := range req.TransactionalIDs {
		resp.TransactionStates = append(resp.TransactionStates, s.transactions.describe(id))
	}
	return resp, nil
}

func (c *transactions) describe(id string) kmsg.DescribeTransactionsResponseTransactionState {
	st := kmsg.NewDescribeTransactionsResponseTransactionState()
	st.TransactionalID, st.ProducerID, st.ProducerEpoch, st.StartTimestamp = id, -1, -1, -1
	e, code := c.find(id, false)
	if e == nil {
		if code == errNone {
			code = errTransactionalIDNotFound
		}
		st.ErrorCode = code
		return st
	}
	r, known := e.x.Record(), e.x.Known()
	e.mu.Unlock()
	if !known {
		st.ErrorCode = errTransactionalIDNotFound
		return st
	}
	st.State, st.TimeoutMillis, st.ProducerID, st.ProducerEpoch = r.State.String(), int32(r.Timeout.Milliseconds()), r.ID, r.Epoch
	for _, p := range r.Partitions {
		if n := len(st.Topics); n == 0 || st.Topics[n-1].Topic != p.Topic {
			st.Topics = append(st.Topics, kmsg.DescribeTransactionsResponseTransactionStateTopic{Topic: p.Topic})
		}
		t := &st.Topics[len(st.Topics)-1]
		t.Partitions = append(t.Partitions, p.Index)
	}
	if len(st.Topics) > 0 {
		st.StartTimestamp = r.Started
	}
	return st
}
