package kafka

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/throttle"
	"github.com/weir-io/weir/cluster/meta"
)

// entity is one of kadm's: pairs of a kind and a name, "" for the default.
func entity(pairs ...string) (e kadm.ClientQuotaEntity) {
	for i := 0; i < len(pairs); i += 2 {
		c := kadm.ClientQuotaEntityComponent{Type: pairs[i]}
		if pairs[i+1] != "" {
			c.Name = &pairs[i+1]
		}
		e = append(e, c)
	}
	return e
}

// setQuota sets one quota, or removes it with a value of 0.
func setQuota(t testing.TB, adm *kadm.Client, e kadm.ClientQuotaEntity, key string, value float64) {
	t.Helper()
	if err := tryQuota(t, adm, e, key, value); err != "" {
		t.Fatal(err)
	}
}

func tryQuota(t testing.TB, adm *kadm.Client, e kadm.ClientQuotaEntity, key string, value float64) string {
	t.Helper()
	got, err := adm.AlterClientQuotas(testContext(t), []kadm.AlterClientQuotaEntry{{
		Entity: e, Ops: []kadm.AlterClientQuotaOp{{Key: key, Value: value, Remove: value == 0}},
	}})
	switch {
	case err != nil:
		t.Fatal(err)
	case got[0].Err != nil:
		return got[0].ErrMessage
	}
	return ""
}

// A producer over its quota is told how long to keep still, and not heard meanwhile, whatever it asks; others are. What it sent is stored all the same.
func TestProducerIsThrottled(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("client-id", "raw"), "producer_byte_rate", 1)
	c := dialRaw(t, addr)
	req := produceRequest(9, "t", -1, batchOf(1000, strings.Repeat("x", 2000)))
	got := roundTrip[*kmsg.ProduceResponse](c, req)
	size := len(frameOf(req, 1)) + 4
	if want := 1000 * (size - 10); got.Topics[0].Partitions[0].ErrorCode != errNone || min(want, int(throttle.MaxWait.Milliseconds())) != int(got.ThrottleMillis) {
		t.Fatalf("%d bytes at 1 B/s: %+v", size, got)
	}
	c.sendFrame(frameOf(versioned(kmsg.NewPtrMetadataRequest(), 9), 7))
	eventually(t, "a connection is muted", func() bool { return s.Stats().MutedConnections == 1 })
	if held := s.quota.inUse(); held != 0 {
		t.Errorf("%d bytes of frames are held for who is muted", held)
	}
	if got := fetchOne(dialRaw(t, addr), fetchRequest(12, "t", 0, 0)); len(values(t, got.RecordBatches)) != 1 {
		t.Errorf("another client reads %+v", got)
	}
	if got := s.Stats(); got.ThrottledProduces != 1 || got.QuotaMeters != 1 {
		t.Errorf("%+v", got)
	}
	c.Close() // and the server stops all the same
}

// When its time is over, a client is heard again, no sooner: also what it had sent before it was told.
func TestThrottledProducerGoesOn(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("user", ""), "producer_byte_rate", 1000)
	c := dialRaw(t, addr)
	req := produceRequest(9, "t", -1, batchOf(1000, strings.Repeat("x", 10_000)))
	began := time.Now()
	for i := range int32(2) { // at once
		c.sendFrame(frameOf(req, i))
	}
	var waits time.Duration
	for i := range int32(2) {
		corr, body := c.readFrame()
		took := time.Since(began)
		got := parseResponse[*kmsg.ProduceResponse](c, req, body)
		if corr != i || got.ThrottleMillis <= 0 || got.Topics[0].Partitions[0].BaseOffset != int64(i) {
			t.Fatalf("answer %d: %+v", corr, got)
		}
		if took < waits {
			t.Fatalf("answer %d after %v: the client had %v to keep still", i, took, waits)
		}
		waits += time.Duration(got.ThrottleMillis) * time.Millisecond
	}
}

// A quota that is removed while a connection waits for its turn does not leave it waiting.
func TestQuotaIsRemovedMeanwhile(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("client-id", "raw"), "producer_byte_rate", 1e9)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a")
	wait := fetchRequest(12, "t", 0, 1)
	wait.MaxWaitMillis = 60_000
	c.sendFrame(frameOf(wait, 7))
	for i := range int32(3) {
		c.sendFrame(frameOf(versioned(kmsg.NewPtrMetadataRequest(), 9), 8+i))
	}
	setQuota(t, adm, entity("client-id", "raw"), "producer_byte_rate", 0)
	fill(t, dialRaw(t, addr), "t", "b")
	for i := range int32(4) {
		if corr, _ := c.readFrame(); corr != 7+i {
			t.Fatalf("answer %d, want %d", corr, 7+i)
		}
	}
}

// Who is muted, for whatever he took, holds none of the memory that frames of all share: what comes behind the request that was too much stays unread, also where
// nothing of the connection was counted before, and where it is older than the quota.
func TestMutedClientsHoldNoMemory(t *testing.T) {
	tooMuch := produceRequest(9, "t", -1, batchOf(1000, strings.Repeat("x", 2000)))
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "many", 20, -1
	creation := versioned(kmsg.NewPtrCreateTopicsRequest(), 5)
	creation.Topics = append(creation.Topics, topic)
	for name, d := range map[string]struct {
		quota string
		older bool
		first kmsg.Request
	}{
		"a producer":                      {"producer_byte_rate", false, tooMuch},
		"a producer older than the quota": {"producer_byte_rate", true, tooMuch},
		"a consumer":                      {"consumer_byte_rate", false, fetchRequest(12, "t", 0, 0)},
		"who makes topics":                {"controller_mutation_rate", false, creation},
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := startServer(t, Config{MemoryInFlight: 1 << 20})
			createTopic(t, addr, "t", 1, nil)
			fill(t, dialRaw(t, addr), "t", strings.Repeat("x", 2000))
			adm, _ := admin(t, addr)
			c := dialRaw(t, addr)
			if d.older {
				fill(t, c, "t", "x")
			}
			setQuota(t, adm, entity("client-id", "raw"), d.quota, 1)
			if !d.older {
				c = dialRaw(t, addr)
			}
			var both []byte
			for i, req := range []kmsg.Request{d.first, produceRequest(9, "t", -1, batchOf(1000, strings.Repeat("x", 900_000)))} {
				frame := frameOf(req, int32(i))
				both = append(binary.BigEndian.AppendUint32(both, uint32(len(frame))), frame...)
			}
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write(both)
				sent <- err
			}()
			c.readFrame()
			eventually(t, "the connection is muted", func() bool { return s.Stats().MutedConnections == 1 })
			if held := s.quota.inUse(); held != 0 {
				t.Errorf("%d bytes of frames are held for who is muted", held)
			}
			fill(t, dialRaw(t, addr), "t", strings.Repeat("y", 900_000))
			c.Close()
			<-sent // as far as buffers reach
		})
	}
}

// A quota that is raised or removed lets go of clients whom it has muted, within a second; that of somebody else does not, and one that is lowered adds nothing to what was said.
func TestMutedClientsAreLetGo(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	adm, _ := admin(t, addr)
	mine := entity("client-id", "raw")
	for _, value := range []float64{1e9, 0} {
		setQuota(t, adm, mine, "producer_byte_rate", 1)
		c := dialRaw(t, addr)
		fill(t, c, "t", strings.Repeat("x", 2000))
		c.sendFrame(frameOf(versioned(kmsg.NewPtrMetadataRequest(), 9), 7))
		eventually(t, "the connection is muted", func() bool { return s.Stats().MutedConnections == 1 })
		setQuota(t, adm, mine, "producer_byte_rate", value)
		if corr, _ := c.readFrame(); corr != 7 {
			t.Errorf("quota of %v: answer %d", value, corr)
		}
	}

	c := &conn{s: s, clientID: "c"}
	mine = entity("client-id", "c")
	setQuota(t, adm, mine, "producer_byte_rate", 10)
	c.charge(quotaProduce, 3100)
	between := func(what string, least, most time.Duration) {
		t.Helper()
		if got := c.mutedFor(); got < least || got > most {
			t.Errorf("%s: muted for %v, want %v to %v", what, got, least, most)
		}
	}
	between("once told", 4*time.Minute, 5*time.Minute)
	setQuota(t, adm, entity("client-id", "d"), "producer_byte_rate", 1e9)
	between("another's", 4*time.Minute, 5*time.Minute)
	setQuota(t, adm, mine, "producer_byte_rate", 5)
	between("lowered", 4*time.Minute, 5*time.Minute)
	setQuota(t, adm, mine, "producer_byte_rate", 20)
	between("raised", time.Minute, 145*time.Second)
	setQuota(t, adm, mine, "producer_byte_rate", 0)
	between("removed", 0, 0)
}

// The time that a client has to keep still does not count as his idleness: the frame that he had begun is read afterwards.
func TestMutedClientsAreNotIdle(t *testing.T) {
	s, addr := startServer(t, Config{IdleTimeout: time.Second})
	createTopic(t, addr, "t", 1, nil)
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("client-id", "raw"), "producer_byte_rate", 1000)
	c := dialRaw(t, addr)
	fill(t, c, "t", strings.Repeat("x", 12_000))
	frame := frameOf(versioned(kmsg.NewPtrMetadataRequest(), 9), 7)
	c.Write(binary.BigEndian.AppendUint32(nil, uint32(len(frame))))
	eventually(t, "the connection is muted", func() bool { return s.Stats().MutedConnections == 1 })
	c.Write(frame)
	if corr, _ := c.readFrame(); corr != 7 {
		t.Errorf("answer %d", corr)
	}
}

// A consumer gets what it asked for, in answers no larger than what it may take at once, and is told to keep still in each version.
func TestConsumerIsThrottled(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	fill(t, dialRaw(t, addr), "t", strings.Repeat("x", 900), strings.Repeat("y", 900), strings.Repeat("z", 900))
	id := topicID(dialRaw(t, addr), "t")
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("client-id", ""), "consumer_byte_rate", 120)
	for v := int16(4); v <= 18; v++ {
		setQuota(t, adm, entity("client-id", "raw"), "consumer_byte_rate", 120+float64(v)) // of the same meter
		req := fetchRequest(v, "t", 0, 0)
		req.Topics[0].TopicID, req.MinBytes, req.MaxWaitMillis = id, 2000, 60_000 // that many never fit
		got := roundTrip[*kmsg.FetchResponse](dialRaw(t, addr), req)
		if n := len(values(t, got.Topics[0].Partitions[0].RecordBatches)); n != 1 || (got.ThrottleMillis > 0) != (v > 4) {
			t.Errorf("v%d: %d records, throttle %d ms", v, n, got.ThrottleMillis)
		}
	}
	if got := s.Stats().ThrottledFetches; got != 14 {
		t.Errorf("%d answers throttled", got)
	}
}

// Topics are made until the rate is exhausted, and then refused where the client can tell, with the time to wait; earlier versions are let through, and wait.
func TestMutationsAreThrottled(t *testing.T) {
	s, addr := startServer(t, Config{})
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("user", "ANONYMOUS", "client-id", "raw"), "controller_mutation_rate", 0.5)
	create := func(version int16, name string, partitions int32, validate bool) *kmsg.CreateTopicsResponse {
		req := versioned(kmsg.NewPtrCreateTopicsRequest(), version)
		req.ValidateOnly = validate
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, -1
		req.Topics = append(req.Topics, rt)
		return roundTrip[*kmsg.CreateTopicsResponse](dialRaw(t, addr), req)
	}
	want := func(what string, got, code int16, millis int32, throttled bool) {
		t.Helper()
		if got != code || (millis > 0) != throttled {
			t.Errorf("%s: code %d, throttle %d ms", what, got, millis)
		}
	}
	got := create(7, "a", 20, true)
	want("validated only", got.Topics[0].ErrorCode, errNone, got.ThrottleMillis, false)
	got = create(7, "a", 20, false)
	want("the first", got.Topics[0].ErrorCode, errNone, got.ThrottleMillis, false)
	got = create(6, "b", 1, false)
	want("the next", got.Topics[0].ErrorCode, errThrottlingQuotaExceeded, got.ThrottleMillis, true)
	if s.broker.Image().Topic("b") != nil {
		t.Error("it was made all the same")
	}
	got = create(5, "b", 1, false)
	want("of an earlier version", got.Topics[0].ErrorCode, errNone, got.ThrottleMillis, true)

	grow := func(version int16) *kmsg.CreatePartitionsResponse {
		req := versioned(kmsg.NewPtrCreatePartitionsRequest(), version)
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = "b", 2
		req.Topics = append(req.Topics, rt)
		return roundTrip[*kmsg.CreatePartitionsResponse](dialRaw(t, addr), req)
	}
	grown := grow(3)
	want("partitions", grown.Topics[0].ErrorCode, errThrottlingQuotaExceeded, grown.ThrottleMillis, true)
	grown = grow(2)
	want("partitions of an earlier version", grown.Topics[0].ErrorCode, errNone, grown.ThrottleMillis, true)
	remove := func(version int16) *kmsg.DeleteTopicsResponse {
		req := versioned(kmsg.NewPtrDeleteTopicsRequest(), version)
		req.TopicNames = []string{"b"}
		return roundTrip[*kmsg.DeleteTopicsResponse](dialRaw(t, addr), req)
	}
	gone := remove(5)
	want("deletion", gone.Topics[0].ErrorCode, errThrottlingQuotaExceeded, gone.ThrottleMillis, true)
	gone = remove(4)
	want("deletion of an earlier version", gone.Topics[0].ErrorCode, errNone, gone.ThrottleMillis, true)
	if got := s.Stats().ThrottledMutations; got != 6 {
		t.Errorf("%d answers throttled", got)
	}
}

// Who connects too often is let wait, and closed; others are not touched. An address is one, however it is written.
func TestConnectionsAreThrottled(t *testing.T) {
	s, addr := startServer(t, Config{})
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("ip", "::ffff:127.0.0.1"), "connection_creation_rate", 1)
	refused := func() bool { return s.Stats().ThrottledConnections > 0 }
	for range 20 {
		if c := dialRaw(t, addr); refused() {
			break
		} else {
			c.Close()
		}
	}
	dialRaw(t, addr).wantClosed()
	eventually(t, "a connection is refused", refused)
	setQuota(t, adm, entity("ip", "127.0.0.1"), "connection_creation_rate", 0)
	roundTrip[*kmsg.MetadataResponse](dialRaw(t, addr), versioned(kmsg.NewPtrMetadataRequest(), 9))
	setQuota(t, adm, entity("ip", ""), "connection_creation_rate", 1000)
	roundTrip[*kmsg.MetadataResponse](dialRaw(t, addr), versioned(kmsg.NewPtrMetadataRequest(), 9))
}

// What is set is described as it was set, by the filters that Kafka has; what cannot be honoured is refused with a reason.
func TestQuotasByRequests(t *testing.T) {
	_, addr := startServer(t, Config{})
	adm, ctx := admin(t, addr)
	for _, e := range []kadm.ClientQuotaEntity{entity("user", "u"), entity("user", ""), entity("user", "u", "client-id", "c"), entity("client-id", "c", "user", "")} {
		setQuota(t, adm, e, "producer_byte_rate", 1024)
	}
	setQuota(t, adm, entity("user", "u"), "controller_mutation_rate", 0.5)
	setQuota(t, adm, entity("ip", "fd00::0:7"), "connection_creation_rate", 5)
	component := func(kind string, match kmsg.QuotasMatchType, name string) kadm.DescribeClientQuotaComponent {
		c := kadm.DescribeClientQuotaComponent{Type: kind, MatchType: match}
		if match == matchExact {
			c.MatchName = &name
		}
		return c
	}
	for name, d := range map[string]struct {
		strict bool
		filter []kadm.DescribeClientQuotaComponent
		want   string
	}{
		"all":          {false, nil, "u: controller_mutation_rate=0.5 producer_byte_rate=1024|<default>|u c|<default> c|fd00::7: connection_creation_rate=5"},
		"strict users": {true, []kadm.DescribeClientQuotaComponent{component("user", matchAny, "")}, "u: controller_mutation_rate=0.5 producer_byte_rate=1024|<default>"},
		"users":        {false, []kadm.DescribeClientQuotaComponent{component("user", matchExact, "u")}, "u: controller_mutation_rate=0.5 producer_byte_rate=1024|u c"},
		"defaults":     {false, []kadm.DescribeClientQuotaComponent{component("user", matchDefault, "")}, "<default>|<default> c"},
		"both":         {true, []kadm.DescribeClientQuotaComponent{component("client-id", matchExact, "c"), component("user", matchAny, "")}, "u c|<default> c"},
		"addresses":    {true, []kadm.DescribeClientQuotaComponent{component("ip", matchExact, "fd00:0::7")}, "fd00::7: connection_creation_rate=5"},
		"nobody":       {true, []kadm.DescribeClientQuotaComponent{component("user", matchExact, "v")}, ""},
	} {
		got, err := adm.DescribeClientQuotas(ctx, d.strict, d.filter)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := d.want; !sameQuotas(got, want) {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}

	for _, c := range []struct {
		entity kadm.ClientQuotaEntity
		key    string
		value  float64
		why    string
	}{
		{entity("user", "u"), "request_percentage", 50, "not honoured: requests have no threads of their own"},
		{entity("user", "u"), "connection_creation_rate", 5, "no quota of this entity"},
		{entity("ip", "10.0.0.1"), "producer_byte_rate", 5, "no quota of this entity"},
		{entity("ip", "example.org"), "connection_creation_rate", 5, "want an address"},
		{entity("ip", "10.0.0.1", "user", "u"), "connection_creation_rate", 5, "ip goes with no user"},
		{entity("host", "h"), "producer_byte_rate", 5, "no kind of entity"},
		{entity("user", "u", "user", "v"), "producer_byte_rate", 5, "named twice"},
		{entity(), "producer_byte_rate", 5, "no entity is named"},
		{entity("user", strings.Repeat("u", meta.MaxQuotaName+1)), "producer_byte_rate", 5, "want 1 to 1024"},
		{entity("user", "u"), "producer_byte_rate", -1, "want more than 0"},
		{entity("user", "u"), "producer_byte_rate", math.NaN(), "want more than 0"},
		{entity("user", "u"), "producer_byte_rate", math.Inf(1), "want more than 0"},
		{entity("user", "u"), "producer_byte_rate", 1.5, "want a whole number"},
	} {
		if got := tryQuota(t, adm, c.entity, c.key, c.value); !strings.Contains(got, c.why) {
			t.Errorf("%v %s=%v: %q, want %q", c.entity, c.key, c.value, got, c.why)
		}
	}
	setQuota(t, adm, entity("user", "u"), "request_percentage", 0)
	setQuota(t, adm, entity("user", "u"), "controller_mutation_rate", 0)
	setQuota(t, adm, entity("user", "u"), "producer_byte_rate", 0)
	if got, err := adm.DescribeClientQuotas(ctx, true, []kadm.DescribeClientQuotaComponent{component("user", matchAny, "")}); err != nil || !sameQuotas(got, "<default>") {
		t.Errorf("after removals: %v, %v", got, err)
	}
}

// sameQuotas compares with entities parted by |, of which those without values have producer_byte_rate=1024.
func sameQuotas(got kadm.DescribedClientQuotas, want string) bool {
	var all []string
	for _, q := range got {
		var names, values []string
		for _, c := range q.Entity {
			if c.Name == nil {
				names = append(names, "<default>")
			} else {
				names = append(names, *c.Name)
			}
		}
		for _, v := range q.Values {
			values = append(values, fmt.Sprintf("%s=%v", v.Key, v.Value))
		}
		text := strings.Join(names, " ") + ": " + strings.Join(values, " ")
		all = append(all, strings.TrimSuffix(text, ": producer_byte_rate=1024"))
	}
	missing := strings.Split(want, "|")
	if want == "" {
		missing = nil
	}
	if len(missing) != len(all) {
		return false
	}
	for _, w := range missing {
		if !slices.Contains(all, w) {
			return false
		}
	}
	return true
}

// Requests cost no memory for quotas, neither where there are none nor where there are.
func TestQuotasAllocateNothing(t *testing.T) {
	s, addr := startServer(t, Config{})
	c := &conn{s: s, clientID: "c", who: who{principal: "User:u"}}
	check := func(when string) {
		t.Helper()
		if n := testing.AllocsPerRun(100, func() { c.charge(quotaProduce, 1); c.charge(quotaFetch, 1) }); n > 0 {
			t.Errorf("%s: %v allocations", when, n)
		}
	}
	check("none")
	adm, _ := admin(t, addr)
	setQuota(t, adm, entity("user", ""), "producer_byte_rate", 1e9)
	setQuota(t, adm, entity("client-id", ""), "consumer_byte_rate", 1e9)
	check("some")
}
