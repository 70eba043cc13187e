package kafka

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// The records of __transaction_state are Kafka's: key int16 0, transactional id; value of version 0, null when the id is forgotten. Version 1 adds, in tagged fields, what
// transactions of version 2 need, and is written for these alone.
const transactionValueVersion = 1

// transactionValueShape is that of version 1, see shape.go: our own log is read with the same care, for it may have been written by others' tools.
var transactionValueShape = func() *shape {
	s, err := parseShape("2 8 2 4 1 *(s *4) 8 8")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return s
}()

// encodeTransaction makes the entry of a transactional id; a nil record removes it.
func encodeTransaction(id string, r *txn.Record) (key, value []byte) {
	k := kmsg.TxnMetadataKey{TransactionalID: id}
	key = k.AppendTo(nil)
	if r == nil {
		return key, nil
	}
	v := kmsg.NewTxnMetadataValue()
	v.ProducerID, v.ProducerEpoch, v.TimeoutMillis = r.ID, r.Epoch, int32(r.Timeout.Milliseconds())
	v.State = kmsg.TransactionState(r.State)
	v.LastUpdateTimestamp, v.StartTimestamp = r.Updated, r.Started
	if r.Version != txn.V1 {
		v.Version = transactionValueVersion
		v.ClientTransactionVersion, v.PreviousProducerID, v.NextProducerID = r.Version, r.Previous, r.Next
		if r.Next >= 0 {
			v.NextProducerEpoch = 0
		}
	}
	for _, p := range r.Partitions {
		if n := len(v.Topics); n == 0 || v.Topics[n-1].Topic != p.Topic {
			v.Topics = append(v.Topics, kmsg.TxnMetadataValueTopic{Topic: p.Topic})
		}
		t := &v.Topics[len(v.Topics)-1]
		t.Partitions = append(t.Partitions, p.Index)
	}
	return key, v.AppendTo(nil)
}

// decodeTransaction reads an entry; without an id it is of a kind that is left alone.
func decodeTransaction(key, value []byte) (id string, r txn.Record, err error) {
	if len(key) < 2 || key[0] != 0 || key[1] != 0 {
		return "", r, nil
	}
	var k kmsg.TxnMetadataKey
	if err := k.ReadFrom(key); err != nil {
		return "", r, fmt.Errorf("key of a transactional id: %w", err)
	}
	v := kmsg.NewTxnMetadataValue()
	if len(value) >= 2 && value[1] == transactionValueVersion && transactionValueShape.check(value, transactionValueVersion) != nil {
		return "", r, fmt.Errorf("transactional id %q: %w", k.TransactionalID, errShape)
	}
	if err := readValue(&v, value, transactionValueVersion); err != nil {
		return "", r, fmt.Errorf("transactional id %q: %w", k.TransactionalID, err)
	}
	r = txn.Record{
		Producer: txn.Producer{ID: v.ProducerID, Epoch: v.ProducerEpoch}, Timeout: time.Duration(v.TimeoutMillis) * time.Millisecond,
		State: txn.State(v.State), Started: v.StartTimestamp, Updated: v.LastUpdateTimestamp,
		Next: v.NextProducerID, Previous: v.PreviousProducerID,
	}
	if v.ClientTransactionVersion >= txn.V2 {
		r.Version = txn.V2
	}
	if r.State < txn.Empty || r.State > txn.CompleteAbort || r.ID < 0 || r.Epoch < 0 || r.Next >= 0 && !r.State.Prepared() {
		return "", r, fmt.Errorf("transactional id %q: state %d of producer %d, epoch %d", k.TransactionalID, v.State, r.ID, r.Epoch)
	}
	for _, t := range v.Topics {
		for _, p := range t.Partitions {
			r.Partitions = append(r.Partitions, txn.Partition{Topic: t.Topic, Index: p})
		}
	}
	return k.TransactionalID, r, nil
}
