package kafka

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// ListTransactions (key 66): v0–1
//
// Those that this broker coordinates: clients ask all. Filters are joined by "and"; states that do not exist are told.
//
//	v1  only transactions that have been open for so long
func (s *Server) listTransactions(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListTransactionsRequest)
	resp := kmsg.NewPtrListTransactionsResponse()
	for _, name := range req.StateFilters {
		if !slices.ContainsFunc([]txn.State{txn.Empty, txn.Ongoing, txn.PrepareCommit, txn.PrepareAbort, txn.CompleteCommit, txn.CompleteAbort},
			func(st txn.State) bool { return st.String() == name }) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, name)
		}
	}
	now := time.Now()
	s.transactions.each(func(e *txnEntry) {
		e.mu.Lock()
		r, known := e.x.Record(), e.x.Known()
		e.mu.Unlock()
		open := r.State == txn.Ongoing || r.State.Prepared()
		switch {
		case !known,
			len(req.StateFilters) > 0 && !slices.Contains(req.StateFilters, r.State.String()),
			len(req.ProducerIDFilters) > 0 && !slices.Contains(req.ProducerIDFilters, r.ID),
			req.Version >= 1 && req.DurationFilterMillis >= 0 && (!open || now.UnixMilli()-r.Started < req.DurationFilterMillis):
			return
		}
		resp.TransactionStates = append(resp.TransactionStates, kmsg.ListTransactionsResponseTransactionState{
			TransactionalID: e.id, ProducerID: r.ID, TransactionState: r.State.String(),
		})
	})
	slices.SortFunc(resp.TransactionStates, func(a, b kmsg.ListTransactionsResponseTransactionState) int {
		return cmp.Compare(a.TransactionalID, b.TransactionalID)
	})
	return resp, nil
}
