package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// transactionLedger is what some producers know of their transactions.
type transactionLedger struct {
	mu      sync.Mutex
	all     []*ledgerTransaction
	ending  chan struct{} // a token when somebody begins to end one
	stopped bool
}

// ledgerTransaction is one transaction: its records in two topics, and the group's offset with them.
type ledgerTransaction struct {
	id, n    int
	records  int  // in each topic
	asked    bool // to be committed
	answered bool // that it is
	aborted  bool
}

func (x *ledgerTransaction) value(i int) string { return fmt.Sprintf("%d-%d-%d", x.id, x.n, i) }

// Whatever moment the node is killed at, in the two phases of a transaction, while a segment is rolled or a topic compacted: each transaction is there as a whole with its
// offsets, or not at all, as its producer was told (P2). Read with franz-go, and with kcat where it is installed.
func TestKillKeepsTransactionsWhole(t *testing.T) {
	kills, seed := 6, uint64(time.Now().UnixNano())
	if os.Getenv("WEIR_SOAK") != "" {
		kills = 200
	}
	if v := os.Getenv("WEIR_KILL_SEED"); v != "" {
		if _, err := fmt.Sscan(v, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_KILL_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	n := startNode(t)
	n.kill() // its ports are known: clients that come while it is away find it again
	n.start()
	makeTransactionTopics(t, n)
	l := &transactionLedger{ending: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var producers sync.WaitGroup
	for id := range 3 {
		producers.Go(func() { l.produce(ctx, t, n.kafka, id, seed) })
	}
	caught := 0
	for i := range kills {
		if i%3 == 0 { // while it compacts, which it looks for every 10 s
			if awaitFile(filepath.Join(n.dir, "topics", "keyed-*", "0", "*.clean"), n.exited) {
				caught++
			}
			time.Sleep(time.Duration(rng.IntN(20_000)) * time.Microsecond)
		} else {
			time.Sleep(time.Duration(500+rng.IntN(1000)) * time.Millisecond)
			select { // between prepare, markers and the end
			case <-l.ending:
			case <-time.After(patience):
				t.Fatal("nobody ends a transaction")
			}
			time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
		}
		n.kill()
		n.start()
	}
	if caught == 0 {
		t.Error("no compaction was caught under way")
	}
	awaitFile(filepath.Join(n.dir, "topics", "keyed-*", "0", "*.clean"), n.exited) // some more, in peace
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	done := make(chan struct{})
	go func() { producers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * patience):
		t.Fatalf("the producers do not end\n%s", n.stderr)
	}
	l.check(t, n, kills)
}

// awaitFile waits for a file to come up, which may be gone at once.
func awaitFile(pattern string, over <-chan struct{}) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return true
		}
		select {
		case <-over:
			return false
		case <-time.After(200 * time.Microsecond):
		}
	}
	return false
}

func makeTransactionTopics(t *testing.T, n *node) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	small, compact, zero := "16384", "compact", "0.01"
	adm := kadm.NewClient(cl)
	_, err = adm.CreateTopic(t.Context(), 1, 1, map[string]*string{"segment.bytes": &small}, "plain")
	if err == nil {
		_, err = adm.CreateTopic(t.Context(), 1, 1, map[string]*string{"segment.bytes": &small, "cleanup.policy": &compact, "min.cleanable.dirty.ratio": &zero}, "keyed")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// produce does transactions until it is told to stop: a client that meets an error it cannot go on after is succeeded by another with the same transactional id.
func (l *transactionLedger) produce(ctx context.Context, t *testing.T, addr string, id int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, uint64(id+1)))
	for n := 0; ; {
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.TransactionalID(fmt.Sprint("producer-", id)), kgo.TransactionTimeout(10*time.Second),
			kgo.RecordDeliveryTimeout(20*time.Second), kgo.RetryTimeout(20*time.Second), kgo.ProducerLinger(0), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
		if err != nil {
			t.Error(err)
			return
		}
		for err == nil {
			l.mu.Lock()
			stopped := l.stopped
			l.mu.Unlock()
			if stopped || ctx.Err() != nil {
				cl.Close()
				return
			}
			err = l.transact(ctx, cl, &ledgerTransaction{id: id, n: n, records: 1 + rng.IntN(20)}, rng.IntN(4) > 0)
			n++
		}
		cl.Close()
	}
}

func (l *transactionLedger) transact(ctx context.Context, cl *kgo.Client, x *ledgerTransaction, commit bool) error {
	l.mu.Lock()
	l.all = append(l.all, x)
	l.mu.Unlock()
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	var records []*kgo.Record
	for i := range x.records {
		records = append(records, &kgo.Record{Topic: "plain", Value: []byte(x.value(i))},
			&kgo.Record{Topic: "keyed", Key: fmt.Appendf(nil, "%d-%d", x.id, (x.n+i)%30), Value: []byte(x.value(i) + strings.Repeat(" ", 200))})
	}
	err := cl.ProduceSync(ctx, records...).FirstErr()
	if err == nil {
		err = commitIn(ctx, cl, x)
	}
	if err != nil {
		commit = false
	}
	l.mu.Lock()
	x.asked = commit
	l.mu.Unlock()
	select {
	case l.ending <- struct{}{}:
	default:
	}
	ended := cl.EndTransaction(ctx, kgo.TransactionEndTry(commit))
	l.mu.Lock()
	x.answered, x.aborted = ended == nil && commit, ended == nil && !commit
	l.mu.Unlock()
	return errors.Join(err, ended)
}

// commitIn has the offset of plain of the producer's group be the transaction's number.
func commitIn(ctx context.Context, cl *kgo.Client, x *ledgerTransaction) error {
	pid, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	id, group := fmt.Sprint("producer-", x.id), fmt.Sprint("group-", x.id)
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = id, pid, epoch, group
	added, err := add.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = id, group, pid, epoch, -1
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "plain", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: int64(x.n), LeaderEpoch: -1}}}}
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	return err
}

// readCommitted reads a topic to its last stable offset.
func readCommitted(t *testing.T, n *node, topic string) (values []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var end, stable int64 = -1, 0
	for end != stable { // transactions whose producer is gone end at their timeout
		ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
		committed, err2 := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
		if err = errors.Join(err, err2); err != nil {
			t.Fatalf("%s: a transaction does not end, last stable offset %d of %d: %v\n%s", topic, stable, end, err, n.stderr)
		}
		e, _ := ends.Lookup(topic, 0)
		s, _ := committed.Lookup(topic, 0)
		end, stable = e.Offset, s.Offset
	}
	marker := &kgo.Record{Topic: topic, Key: []byte("end"), Value: []byte("end")}
	if err := cl.ProduceSync(ctx, marker).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fetches.Records() {
			if r.Offset == marker.Offset {
				return values
			}
			values = append(values, strings.TrimRight(string(r.Value), " "))
		}
	}
}

func (l *transactionLedger) check(t *testing.T, n *node, kills int) {
	t.Helper()
	plain, keyed := readCommitted(t, n, "plain"), readCommitted(t, n, "keyed")
	seen, unknown, committed, newest := map[string]int{}, 0, 0, map[int]int{}
	for _, v := range plain {
		seen[v]++
	}
	whole := map[string]*ledgerTransaction{}
	for _, x := range l.all {
		there := 0
		for i := range x.records {
			there += seen[x.value(i)]
			whole[x.value(i)] = x
		}
		switch {
		case there > x.records:
			t.Errorf("transaction %d-%d: %d records, %d are there", x.id, x.n, x.records, there)
		case there > 0 && (there < x.records || !x.asked || x.aborted), there == 0 && x.answered:
			t.Errorf("transaction %d-%d: %d of %d records are there; commit asked %v, answered %v, abort answered %v", x.id, x.n, there, x.records, x.asked, x.answered, x.aborted)
		case !x.answered && !x.aborted:
			unknown++
		}
		if there > 0 {
			newest[x.id] = max(newest[x.id], x.n)
			committed++
		}
	}
	for _, v := range keyed { // what compaction has left
		if x := whole[v]; x == nil || seen[v] == 0 {
			t.Errorf("the compacted topic shows %q, which is not in the other", v)
		}
	}
	l.checkTables(t, keyed, seen)
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for id, want := range newest {
		offsets, err := kadm.NewClient(cl).FetchOffsets(t.Context(), fmt.Sprint("group-", id))
		if got, _ := offsets.Lookup("plain", 0); err != nil || got.At != int64(want) {
			t.Errorf("group of producer %d has offset %d, its newest committed transaction is %d: %v", id, got.At, want, err)
		}
	}
	if committed < kills*4 {
		t.Errorf("only %d transactions were committed: the test proves nothing", committed)
	}
	t.Logf("%d kills, %d transactions, %d committed, of %d the producer was not told; the compacted topic has %d records", kills, len(l.all), committed, unknown, len(keyed))
	if _, err := exec.LookPath("kcat"); err == nil {
		got := kcatRead(t, n, "plain", "%s") // librdkafka reads committed records only, unless told otherwise
		if got = got[:len(got)-1]; !slices.Equal(got, plain) {
			t.Errorf("kcat reads %d records, franz-go %d", len(got), len(plain))
		}
	}
}

// checkTables compares the compacted topic's newest records with those of the transactions that were committed.
func (l *transactionLedger) checkTables(t *testing.T, keyed []string, seen map[string]int) {
	t.Helper()
	want := map[string]string{}
	key := func(x *ledgerTransaction, i int) string { return fmt.Sprintf("%d-%d", x.id, (x.n+i)%30) }
	of := map[string]string{}
	for _, x := range l.all { // a producer's are in order
		for i := range x.records {
			of[x.value(i)] = key(x, i)
			if seen[x.value(i)] > 0 {
				want[key(x, i)] = x.value(i)
			}
		}
	}
	got := map[string]string{}
	for _, v := range keyed {
		got[of[v]] = v
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("the compacted topic has %q at %s, want %q", got[k], k, v)
		}
	}
}
