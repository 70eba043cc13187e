package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/weir-io/weir/cmd/weir/e2e/apache"
	"github.com/weir-io/weir/log"
)

// Apache Kafka's coordinator has forgotten a transaction of the uplink that partitions still hold open, in each way in which that can be: as after a crash, but made by hand. The uplink
// ends it as it was decided, without loss and without duplicates. Where it may not, it says what it needs, and goes on when it has that. // U11
func TestUplinkEndsWhatHangs(t *testing.T) {
	t.Parallel()
	centre := &apache.Kafka{
		Addr: peerPort(t), SASL: peerPort(t), Users: map[string]string{"weir": "right"}, Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka"),
		More: []string{
			"transaction.partition.verification.enable=false", // a broker of before KIP-890 asks nobody whether there is a transaction
			"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS", "allow.everyone.if.no.acl.found=true",
		},
	}
	runKafka(t, centre)
	passed(t, "Apache Kafka", kafkaVersion(t), "target of an uplink that holds transactions open which its coordinator has ended")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	edge := startEdge(t, centre.SASL, []string{"topics: [telemetry]", "sasl: {user: weir, password_file: " + password + "}"})
	produceLines(t, edge.kafka, "telemetry", 0, 700)
	edge.awaitUplink("all is carried", carriedAll)
	h := newHanger(t, edge, centre.Addr)
	sent := 700
	hang := func(t *testing.T, marks ...func(*unended)) {
		t.Helper()
		run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "pause", "central")
		edge.awaitUplink("it is paused", func(s uplinkStatus) bool { return s.State == "paused" })
		produceLines(t, edge.kafka, "telemetry", sent, 70)
		sent += 70
		u := h.hang(t)
		for _, mark := range marks {
			mark(u)
		}
	}
	cursors := func(later int16, commit bool) func(*unended) {
		return func(u *unended) { u.mark(t, "weir.uplinks", u.cursors, later, commit) }
	}
	data := func(later int16, commit bool) func(*unended) {
		return func(u *unended) { u.mark(t, h.topic, u.data[0], later, commit) }
	}
	for _, c := range []struct {
		what  string
		marks []func(*unended)
		log   string
	}{
		{"everything hangs", nil, `"commit":false,"why":"nothing of it was committed anywhere"`},
		{"the cursors were committed", []func(*unended){cursors(1, true)}, `"commit":true,"why":"the cursors have passed it"`},
		{"the cursors were committed, version 1", []func(*unended){cursors(0, true)}, `"commit":true,"why":"the cursors have passed it"`},
		{"the cursors were aborted", []func(*unended){cursors(1, false)}, `"commit":false,"why":"the cursors have not passed it"`},
		{"a partition was committed", []func(*unended){data(1, true)}, `"commit":true,"why":"it was committed in another partition"`},
		{"a partition was committed, version 1", []func(*unended){data(0, true)}, `"commit":true,"why":"it was committed in another partition"`},
		{"a partition was aborted", []func(*unended){data(1, false)}, `"commit":false,"why":"it was aborted in another partition"`},
	} {
		hang(t, c.marks...)
		before := len(edge.stderr.String())
		run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
		edge.awaitUplink("all is carried: "+c.what, carriedAll)
		if said := edge.stderr.String()[before:]; !strings.Contains(said, c.log) {
			t.Errorf("%s: the log does not say %s:\n%s", c.what, c.log, said)
		}
		h.nothingOpen(t, c.what)
	}
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, sent)

	admin := kadm.NewClient(h.client)
	denied := kadm.NewACLs().Clusters().Deny("User:weir").DenyHosts().Operations(kadm.OpClusterAction, kadm.OpAlter).ResourcePatternType(kadm.ACLPatternLiteral)
	if _, err := admin.CreateACLs(t.Context(), denied); err != nil {
		t.Fatal(err)
	}
	writes := kadm.NewACLs().Topics(h.topic).Allow("User:weir").AllowHosts().Operations(kadm.OpWrite, kadm.OpDescribe).ResourcePatternType(kadm.ACLPatternLiteral)
	if _, err := admin.CreateACLs(t.Context(), writes); err != nil { // and may not read
		t.Fatal(err)
	}
	hang(t)
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	edge.awaitUplink("it says that it may not look", func(s uplinkStatus) bool {
		return s.State == "failing" && strings.Contains(s.Why, "ask who has written to "+h.topic) && strings.Contains(s.Why, "READ")
	})
	if _, err := admin.DeleteACLs(t.Context(), writes); err != nil {
		t.Fatal(err)
	}
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	s := edge.awaitUplink("it says what it needs", func(s uplinkStatus) bool { return strings.Contains(s.Why, "--operation ClusterAction --cluster") })
	t.Log(s.Why)
	if s.State != "failing" || !strings.Contains(s.Why, "kafka-transactions.sh --bootstrap-server "+centre.SASL+" abort --topic weir.uplinks --partition ") {
		t.Errorf("%+v", s)
	}
	if _, err := admin.DeleteACLs(t.Context(), denied); err != nil {
		t.Fatal(err)
	}
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	edge.awaitUplink("all is carried", carriedAll)
	h.nothingOpen(t, "with the permission")
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, sent)
}

// The coordinator has given the uplink another producer id, since the epochs of one were used up, while the gateway was away: what hangs of the one before is this uplink's all the same. // U11
func TestUplinkEndsWhatHangsOfAProducerBefore(t *testing.T) {
	t.Parallel()
	if os.Getenv("WEIR_SOAK") == "" {
		t.Skip("uses up 32,767 epochs, which takes half a minute: set WEIR_SOAK")
	}
	centre := &apache.Kafka{Addr: peerPort(t), Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka"), More: []string{"transaction.partition.verification.enable=false"}}
	runKafka(t, centre)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 700)
	edge.awaitUplink("all is carried", carriedAll)
	h := newHanger(t, edge, centre.Addr)
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "pause", "central")
	edge.awaitUplink("it is paused", func(s uplinkStatus) bool { return s.State == "paused" })
	produceLines(t, edge.kafka, "telemetry", 700, 70)
	u := h.hang(t)
	edge.kill()
	for began := time.Now(); ; {
		if id, epoch := h.init(t); id != u.id {
			t.Logf("producer %d follows upon producer %d after %s", id, u.id, time.Since(began))
			break
		} else if epoch%4096 == 0 {
			t.Logf("epoch %d after %s", epoch, time.Since(began))
		}
	}
	edge.start()
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	edge.awaitUplink("all is carried", carriedAll)
	if said := edge.stderr.String(); !strings.Contains(said, `"commit":false,"why":"nothing of it was committed anywhere"`) {
		t.Errorf("the log does not say what was done:\n%s", said)
	}
	h.nothingOpen(t, "after the epochs were used up")
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 770)
}

// hanger writes what the uplink of a node would write next, in a transaction that the coordinator never hears of.
type hanger struct {
	client                 *kgo.Client // as one of before KIP-890
	edge                   *node
	centre, cluster, topic string
}

func newHanger(t *testing.T, edge *node, centre string) *hanger {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(centre), kgo.MaxVersions(kversion.V3_7_0()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &hanger{client: c, edge: edge, centre: centre, cluster: clusterID(t, edge.kafka), topic: atCentre(t, "telemetry")}
}

// unended is such a transaction.
type unended struct {
	h       *hanger
	id      int64
	epoch   int16
	data    []int32 // partitions of the topic
	cursors int32   // of weir.uplinks
}

// init takes the uplink's transactional id over.
func (h *hanger) init(t *testing.T) (producer int64, epoch int16) {
	t.Helper()
	id := fmt.Sprintf("weir-uplink-%s-central-0", h.cluster)
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis, init.ProducerID, init.ProducerEpoch = &id, 60_000, -1, -1
	got, err := init.RequestWith(t.Context(), h.client)
	if err != nil || got.ErrorCode != 0 {
		t.Fatalf("InitProducerId: %v %+v", err, got)
	}
	return got.ProducerID, got.ProducerEpoch
}

func (h *hanger) hang(t *testing.T) *unended {
	t.Helper()
	ctx := t.Context()
	cursors, at := h.cursors(t)
	u := &unended{h: h, cursors: at}
	u.id, u.epoch = h.init(t)
	topics, err := kadm.NewClient(h.client).ListTopics(ctx, h.topic)
	if err != nil {
		t.Fatal(err)
	}
	choose, n := kgo.StickyKeyPartitioner(nil).ForTopic(h.topic), len(topics[h.topic].Partitions)
	to := map[int32][]log.Record{}
	for _, r := range h.uncarried(t, cursors) {
		rec := log.Record{Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
		for _, x := range append(r.Headers, kgo.RecordHeader{Key: "weir.origin", Value: fmt.Appendf(nil, "%s/telemetry/%d/%d", h.cluster, r.Partition, r.Offset)}) {
			rec.Headers = append(rec.Headers, log.Header{Key: []byte(x.Key), Value: x.Value})
		}
		p := int32(choose.Partition(r, n))
		to[p] = append(to[p], rec)
		cursors[r.Partition].next(t, r.Offset+1)
	}
	for p, records := range to {
		u.data = append(u.data, p)
		u.write(t, h.topic, p, records)
	}
	var told []log.Record
	for _, c := range cursors {
		told = append(told, log.Record{Timestamp: time.Now().UnixMilli(), Key: c.key, Value: c.value(t)})
	}
	u.write(t, "weir.uplinks", at, told)
	return u
}

// write has a partition hold it open.
func (u *unended) write(t *testing.T, topic string, partition int32, records []log.Record) {
	t.Helper()
	var b log.BatchBuilder
	b.SetProducer(u.id, u.epoch, 0)
	b.SetFlags(log.AttrTransactional)
	for i := range records {
		b.Append(&records[i])
	}
	id := fmt.Sprintf("weir-uplink-%s-central-0", u.h.cluster)
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, b.Seal(0, -1)
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, p)
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks, req.TimeoutMillis, req.Topics = &id, -1, 30_000, append(req.Topics, rt)
	got, err := u.h.client.Broker(1).RetriableRequest(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if code := got.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("produce to %s, partition %d: error %d", topic, partition, code)
	}
}

// mark ends it in one partition.
func (u *unended) mark(t *testing.T, topic string, partition int32, later int16, commit bool) {
	t.Helper()
	where := kadm.TopicsSet{}
	where.Add(topic, partition)
	all, err := kadm.NewClient(u.h.client).WriteTxnMarkers(t.Context(), kadm.TxnMarkers{ProducerID: u.id, ProducerEpoch: u.epoch + later, Commit: commit, CoordinatorEpoch: 0, Topics: where})
	if err == nil {
		all.EachPartition(func(r kadm.TxnMarkersPartitionResponse) { err = r.Err })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// nothingOpen checks that readers of committed records wait for nothing.
func (h *hanger) nothingOpen(t *testing.T, what string) {
	t.Helper()
	there, err := kadm.NewClient(h.client).DescribeProducers(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	there.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset >= 0 {
			t.Errorf("%s: %s, partition %d is still open since offset %d", what, p.Topic, p.Partition, p.CurrentTxnStartOffset)
		}
	})
}

// cursor is a record of weir.uplinks.
type cursor struct {
	key    []byte
	fields map[string]any
}

func (c *cursor) next(t *testing.T, offset int64) {
	if c == nil {
		t.Fatal("a partition without a cursor at the target")
	}
	c.fields["next"] = offset
}

func (c *cursor) value(t *testing.T) []byte {
	b, err := json.Marshal(c.fields)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cursors reads those of the uplink, by partition of the edge's topic, and where they stand.
func (h *hanger) cursors(t *testing.T) (all map[int32]*cursor, at int32) {
	t.Helper()
	all = map[int32]*cursor{}
	for _, r := range committed(t, h.centre, "weir.uplinks") {
		if !bytes.HasPrefix(r.Key, []byte(h.cluster+"/central/")) {
			continue
		}
		c := &cursor{key: r.Key}
		if err := json.Unmarshal(r.Value, &c.fields); err != nil {
			t.Fatal(err)
		}
		all[int32(c.fields["partition"].(float64))], at = c, r.Partition
	}
	return all, at
}

// uncarried reads what the edge has behind its cursors.
func (h *hanger) uncarried(t *testing.T, cursors map[int32]*cursor) (all []*kgo.Record) {
	t.Helper()
	for _, r := range committed(t, h.edge.kafka, "telemetry") {
		if c := cursors[r.Partition]; c == nil || float64(r.Offset) >= c.fields["next"].(float64) {
			all = append(all, r)
		}
	}
	return all
}

// committed reads every committed record of a topic.
func committed(t *testing.T, bootstrap, topic string) (all []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s: %v", topic, err)
		}
		for r := range fetches.RecordsAll() {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return all
}
