package kafka

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// The records of __transaction_state are Kafka's: key int16 0, transactional id; value of version 0, null when the id is forgotten.

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
	if err := readValue(&v, value, 0); err != nil {
		return "", r, fmt.Errorf("transactional id %q: %w", k.TransactionalID, err)
	}
	r = txn.Record{
		Producer: txn.Producer{ID: v.ProducerID, Epoch: v.ProducerEpoch}, Timeout: time.Duration(v.TimeoutMillis) * time.Millisecond,
		State: txn.State(v.State), Started: v.StartTimestamp, Updated: v.LastUpdateTimestamp,
	}
	if r.State < txn.Empty || r.State > txn.CompleteAbort || r.ID < 0 || r.Epoch < 0 {
		return "", r, fmt.Errorf("transactional id %q: state %d of producer %d, epoch %d", k.TransactionalID, v.State, r.ID, r.Epoch)
	}
	for _, t := range v.Topics {
		for _, p := range t.Partitions {
			r.Partitions = append(r.Partitions, txn.Partition{Topic: t.Topic, Index: p})
		}
	}
	return k.TransactionalID, r, nil
}
