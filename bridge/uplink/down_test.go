package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

// memInlet is a topic of this cluster.
type memInlet struct {
	mu       sync.Mutex
	rng      *rand.Rand
	fails    int // one append of so many fails, before or after the record is in the log [none]
	hold     chan struct{}
	start    log.Offset
	parts    [3][]log.Record
	retained []log.Record
}

func (m *memInlet) Topic(string) (all []InletPartition, err error) {
	for i := range m.parts {
		all = append(all, memPart{m, i})
	}
	return all, nil
}

func (m *memInlet) PartitionFor(key []byte, n int) int {
	sum := 0
	for _, b := range key {
		sum += int(b)
	}
	return sum % n
}

func (m *memInlet) Retain(r *log.Record, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retained = append(m.retained, *r)
	go done(nil)
}

type memPart struct {
	*memInlet
	index int
}

func (p memPart) Append(r *log.Record, done func(error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(r.Value) > 1000 {
		return log.ErrTooLarge
	}
	fail := p.fails > 0 && p.rng.IntN(p.fails) == 0
	if fail && p.rng.IntN(2) == 0 {
		return errors.New("no leader")
	}
	var err error
	if fail {
		err = errors.New("nobody knows what became of it")
	}
	if !fail || p.rng.IntN(2) == 0 {
		c := (&outgoing{Record: *r}).clone().Record
		c.Offset = log.Offset(len(p.parts[p.index]))
		p.parts[p.index] = append(p.parts[p.index], c)
	}
	hold := p.hold
	go func() {
		if hold != nil {
			<-hold
		}
		done(err)
	}()
	return nil
}

func (p memPart) Settle() (log.Offset, error) { return p.End(), nil }
func (p memPart) End() log.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return log.Offset(len(p.parts[p.index]))
}

func (p memPart) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if from < p.start {
		return buf[:0], log.ErrOutOfRange
	}
	return (&pipeLog{records: p.parts[p.index]}).Read(from, maxBytes, buf)
}

func (m *memInlet) all() (all []log.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		all = append(all, p...)
	}
	return all
}

// keptStore keeps one value, unless it fails.
type keptStore struct {
	rng   *rand.Rand
	value []byte
}

func (s *keptStore) Load(func(key, value []byte) error) error { return nil }
func (s *keptStore) Put(_, value []byte, done func(error)) {
	if s.rng != nil && s.rng.IntN(3) == 0 {
		go done(errors.New("not the leader"))
		return
	}
	s.value = value
	go done(nil)
}

func downOf(t *testing.T, inlet *memInlet, store Store, cfg Config, change ...func(*Options)) *down {
	t.Helper()
	all := []Config{cfg}
	if err := Check(all, ""); err != nil {
		t.Fatal(err)
	}
	o := Options{Config: all[0], Cluster: "edge", Inlet: inlet, Store: store, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	return New(o).downs[0]
}

var fromKafka = Config{Name: "central", To: "kafka://centre:9092", Down: []Down{{From: "commands", To: "devices/{key}/commands"}}}

// U9: whatever fails here and whenever the owner dies, each record comes down exactly once.
func TestDownFromKafkaModel(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			inlet, store := &memInlet{rng: rng, fails: 20}, &keptStore{rng: rng}
			source := map[int32][]*kgo.Record{}
			for i := range 400 {
				p := int32(rng.IntN(3))
				r := &kgo.Record{Topic: "commands", Partition: p, Offset: int64(len(source[p])), Key: fmt.Appendf(nil, "d%d", rng.IntN(9)), Value: fmt.Appendf(nil, "%d", i)}
				source[p] = append(source[p], r)
			}
			var d *down
			crashed := true
			for round := 0; ; round++ {
				if round > 5000 {
					t.Fatal("no end")
				}
				if crashed { // another owner
					d = downOf(t, inlet, store, fromKafka)
					if err := d.restore(d.key(), store.value); err != nil {
						t.Fatal(err)
					}
				}
				if err := d.open(); err != nil {
					t.Fatal(err)
				}
				var err error
				if d.there, err = d.found(); err != nil {
					t.Fatal(err)
				}
				at := map[int32]int{} // of the consumer
				left := 0
				for p := range source {
					at[p] = int(d.state.Next[p])
					left += len(source[p]) - at[p]
				}
				if left == 0 {
					break
				}
				for err == nil && left > 0 {
					p := int32(rng.IntN(3))
					n := min(1+rng.IntN(30), len(source[p])-at[p])
					records := source[p][at[p] : at[p]+n]
					at[p], left = at[p]+n, left-n
					time.Sleep(time.Duration(rng.IntN(700)) * time.Millisecond)
					err = d.takeDown(t.Context(), kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: "commands", Partitions: []kgo.FetchPartition{{Partition: p, Records: records}}}}}})
					if rng.IntN(30) == 0 {
						err = errors.New("the power goes")
					}
				}
				crashed = err != nil && rng.IntN(2) == 0
			}
			seen := map[string]int{}
			for _, r := range inlet.all() {
				seen[string(r.Value)]++
			}
			for i := range 400 {
				if n := seen[fmt.Sprint(i)]; n != 1 {
					t.Errorf("record %d came down %d times", i, n)
				}
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// What the log has deleted is not looked for, and what others wrote there is not taken for ours.
func TestDownFound(t *testing.T) {
	inlet := &memInlet{}
	d := downOf(t, inlet, &keptStore{}, fromKafka)
	via := func(v string) log.Record {
		return log.Record{Key: []byte("k"), Headers: headers("mqtt.topic", "t", ViaHeader, v)}
	}
	inlet.parts[0] = []log.Record{
		via("edge/central/commands/0/1"), via("edge/central/commands/0/5"), via("edge/other/commands/0/6"), via("edge/central/commands2/0/7"), via("edge/central/commands/x/8"),
		{Headers: headers(ViaHeader, "edge/central/commands/0/9")}, {Headers: headers("mqtt.topic", "t", "mqtt.qos", "1", ViaHeader, "edge/central/commands/0/10")}, via("edge/central/commands/2/4"),
		via("edge/central/commands/0/2"),
	}
	inlet.start = 1
	d.state.Next[0] = 3
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	got, err := d.found()
	if want := map[int32]map[int64]bool{0: {5: true}, 2: {4: true}}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// A topic that was made anew at the target is taken from its beginning, though it is longer by now than the old one was and its records say to be of the same places.
func TestDownFromATopicMadeAnew(t *testing.T) {
	centre, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "commands"))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	inlet, store, cfg := &memInlet{}, &keptStore{}, fromKafka
	cfg.To = "kafka://" + centre.ListenAddrs()[0]
	var want []string
	round := func(name string, n int) {
		t.Helper()
		client, err := kgo.NewClient(kgo.SeedBrokers(centre.ListenAddrs()...), kgo.DefaultProduceTopic("commands"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for i := range n {
			v := fmt.Sprintf("%s %d", name, i)
			want = append(want, v)
			if err := client.ProduceSync(t.Context(), kgo.StringRecord(v)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		d := downOf(t, inlet, store, cfg)
		if err := d.restore(d.key(), store.value); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		go func() {
			for len(inlet.all()) < len(want) && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			d.f.Pause(true) // it stores how far it has come, and ends
		}()
		if err := d.kafka(ctx); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range inlet.all() {
			got = append(got, string(r.Value))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("came down: %q, want %q", got, want)
		}
		if _, err := kadm.NewClient(client).DeleteTopic(t.Context(), "commands"); err != nil {
			t.Fatal(err)
		}
		if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, "commands"); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Down = []Down{{From: "commands", To: "devices/commands", Start: startBeginning}}
	round("old", 5)
	round("new", 8)
}

// What an owner had committed here and died before it was retained becomes retained with the next one, and does not come down again.
func TestDownRetainsWhatIsThere(t *testing.T) {
	inlet, cfg := &memInlet{}, fromKafka
	cfg.Down = []Down{{From: "commands", To: "devices/{key}/manifest", Retain: true}}
	d := downOf(t, inlet, &keptStore{}, cfg)
	inlet.parts[0] = []log.Record{{Key: []byte("c"), Headers: headers("mqtt.topic", "devices/c/manifest", ViaHeader, "edge/central/commands/0/0")}}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.there, err = d.found(); err != nil {
		t.Fatal(err)
	}
	records := []*kgo.Record{{Topic: "commands", Key: []byte("c"), Value: []byte("old")}, {Topic: "commands", Offset: 1, Key: []byte("c"), Value: []byte("new")}}
	if err := d.takeDown(t.Context(), kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: "commands", Partitions: []kgo.FetchPartition{{Records: records}}}}}}); err != nil {
		t.Fatal(err)
	}
	var retained []string
	for _, r := range inlet.retained {
		retained = append(retained, string(r.Value))
	}
	if all := inlet.all(); len(all) != 2 || !slices.Equal(retained, []string{"old", "new"}) || d.taken != 1 {
		t.Errorf("%d records in the topic, retained %q, %d taken; want 2, old and new, 1", len(all), retained, d.taken)
	}
}

func TestDownRecords(t *testing.T) {
	for name, c := range map[string]struct {
		down    Down
		in      kgo.Record
		headers []log.Header
		retain  bool
		refused string
	}{
		"of a producer": {
			down: Down{To: "devices/{key}/commands"}, in: kgo.Record{Headers: []kgo.RecordHeader{{Key: "by", Value: []byte("operator")}}},
			headers: headers("mqtt.topic", "devices/d1/commands", "weir.via", "edge/central/commands/2/7", "by", "operator"),
		},
		"of an MQTT client there": {
			in: kgo.Record{Headers: []kgo.RecordHeader{
				{Key: "mqtt.topic", Value: []byte("cmd/d1")}, {Key: "mqtt.client", Value: []byte("console")}, {Key: "mqtt.retain", Value: []byte("1")}, {Key: "content-type", Value: []byte("text/plain")},
				{Key: "mqtt.qos2", Value: []byte("token")}, {Key: "mqtt.qos", Value: []byte("2")}, {Key: "mqtt.topic", Value: []byte("a user's")}, {Key: "mqtt.retain", Value: []byte("0")},
			}},
			headers: headers("mqtt.topic", "cmd/d1", "weir.via", "edge/central/commands/2/7", "mqtt.retain", "1", "content-type", "text/plain", "mqtt.qos", "2", "mqtt.topic", "a user's", "mqtt.retain", "0"),
			retain:  true,
		},
		"retained by configuration": {
			down: Down{To: "{topic}/{key}", Retain: true}, headers: headers("mqtt.topic", "commands/d1", "weir.via", "edge/central/commands/2/7", "mqtt.retain", "1"), retain: true,
		},
		"a topic that is none":    {down: Down{To: "a/#"}, refused: "wildcard"},
		"a topic of the broker's": {down: Down{To: "$SYS/x"}, refused: "broker's own"},
	} {
		cfg := fromKafka
		c.down.From = "commands"
		cfg.Down = []Down{c.down}
		d := downOf(t, &memInlet{}, &keptStore{}, cfg)
		c.in.Topic, c.in.Partition, c.in.Offset, c.in.Key, c.in.Value = "commands", 2, 7, []byte("d1"), []byte("v")
		a := d.fromKafka(&c.in)
		if c.refused != "" {
			if a.refused == nil || !strings.Contains(a.refused.Error(), c.refused) {
				t.Errorf("%s: %v", name, a.refused)
			}
			continue
		}
		if diff := cmp.Diff(c.headers, a.Headers); diff != "" || a.retain != c.retain || a.refused != nil || string(a.Key) != "d1" || string(a.Value) != "v" {
			t.Errorf("%s: %v, retain %v, refused %v", name, diff, a.retain, a.refused)
		}
	}
}

// What began here is not taken down, and what came down does not go up again; nobody can have a device's messages left here.
func TestDownLoops(t *testing.T) {
	d := downOf(t, &memInlet{}, &keptStore{}, fromKafka)
	for origin, own := range map[string]bool{"edge/telemetry/0/1": true, "edge2/telemetry/0/1": false, "edge": false, "other/edge/0/1": false} {
		r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: OriginHeader, Value: []byte("hub/x/0/1")}, {Key: OriginHeader, Value: []byte(origin)}}}
		p := &packets.Publish{Properties: &packets.Properties{User: []packets.User{{Key: OriginHeader, Value: origin}}}}
		if d.goesRound(r) != own || d.messageGoesRound(p) != own {
			t.Errorf("%s: %v, %v", origin, d.goesRound(r), d.messageGoesRound(p))
		}
	}
	for name, c := range map[string]struct {
		downward bool
		headers  []log.Header
		want     bool
	}{
		"from Kafka":          {true, headers("mqtt.topic", "t", ViaHeader, "edge/central/commands/0/1"), true},
		"from MQTT":           {true, headers("mqtt.topic", "t", ViaHeader, "edge/central"), true},
		"another uplink":      {true, headers("mqtt.topic", "t", ViaHeader, "edge/central2/commands/0/1"), false},
		"a user property":     {true, headers("mqtt.topic", "t", "mqtt.qos", "1", ViaHeader, "edge/central"), false},
		"in telemetry":        {false, headers("mqtt.topic", "t", ViaHeader, "edge/central"), false},
		"without any of them": {true, nil, false},
	} {
		p := &part{f: d.f, downward: c.downward}
		if got := p.cameDown(&log.Record{Headers: c.headers}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A record that came down is passed over on the way up.
func TestDownDoesNotGoUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t, down: []Down{{From: "a"}}}
		l := &pipeLog{topic: "commands"}
		l.add("from here", headers("mqtt.topic", "a")...)
		l.add("came down", headers("mqtt.topic", "a", ViaHeader, "edge/central")...)
		l.add("from here", headers("mqtt.topic", "a")...)
		cursors, _, _ := b.run(t, time.Minute, l)
		if got := b.origins(); !slices.Equal(got, origins(l, 0, 2)) || cursors["commands/0"] != 3 {
			t.Errorf("went up: %q, cursors %v", got, cursors)
		}
	})
}

// centreOf is a broker that has messages for one session.
type centreOf struct {
	code     byte
	resumed  bool
	messages []*packets.Publish
	mu       sync.Mutex
	acked    []uint16
	connect  *packets.Connect
	sub      *packets.Subscribe
}

func (b *centreOf) dial(context.Context, *Config) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		for {
			p, err := packets.ReadPacket(theirs)
			if err != nil {
				return
			}
			var out []io.WriterTo
			b.mu.Lock()
			switch p := p.Content.(type) {
			case *packets.Connect:
				b.connect = p
				out = append(out, &packets.Connack{SessionPresent: b.resumed, Properties: &packets.Properties{}})
			case *packets.Subscribe:
				b.sub = p
				out = append(out, &packets.Suback{PacketID: p.PacketID, Reasons: []byte{b.code}, Properties: &packets.Properties{}})
				for _, m := range b.messages {
					out = append(out, m)
				}
			case *packets.Puback:
				b.acked = append(b.acked, p.PacketID)
			}
			b.mu.Unlock()
			go func() {
				for _, o := range out {
					if _, err := o.WriteTo(theirs); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ours, nil
}

func (b *centreOf) acks() []uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.acked)
}

var fromMQTT = Config{Name: "central", To: "mqtt://centre:1883", Down: []Down{{From: "cmd/#"}}}

// The broker hears of a message when it is committed here, and not before; what has no place here is in the dead-letter topic.
func TestDownFromMQTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expiry := uint32(60)
		b := &centreOf{code: 1, messages: []*packets.Publish{
			{PacketID: 1, QoS: 1, Topic: "cmd/d1", Payload: []byte("one"), Properties: &packets.Properties{ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte("c"), PayloadFormat: &utf8Payload, MessageExpiry: &expiry, User: []packets.User{{Key: "by", Value: "me"}}}},
			{PacketID: 2, QoS: 1, Retain: true, Topic: "cmd/d1", Payload: []byte("two"), Properties: &packets.Properties{}},
			{PacketID: 3, QoS: 1, Topic: "cmd/d1", Payload: []byte("ours"), Properties: &packets.Properties{User: []packets.User{{Key: OriginHeader, Value: "edge/t/0/1"}}}},
			{PacketID: 4, QoS: 1, Topic: "cmd/d1", Payload: make([]byte, 2000), Properties: &packets.Properties{}},
		}}
		inlet := &memInlet{hold: make(chan struct{})}
		var buried []log.Record
		d := downOf(t, inlet, &keptStore{}, fromMQTT, func(o *Options) {
			o.dial = b.dial
			o.DeadLetter = func(_ context.Context, topic string, r *log.Record) error {
				if topic != "commands.dlq" {
					t.Errorf("buried in %s", topic)
				}
				buried = append(buried, *r)
				return nil
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { d.run(ctx); close(ended) }()
		time.Sleep(10 * time.Second)
		if a := b.acks(); len(a) > 0 || len(inlet.all()) == 0 {
			t.Errorf("nothing is committed, and %v are acknowledged", a)
		}
		close(inlet.hold)
		time.Sleep(time.Second)
		if a := b.acks(); !slices.Equal(a, []uint16{1, 2, 3, 4}) {
			t.Errorf("acknowledged: %v", a)
		}
		at := fmt.Sprint(time.Now().Add(-11*time.Second).UnixMilli() + 60_000)
		want := [][]log.Header{
			headers("mqtt.topic", "cmd/d1", "weir.via", "edge/central", "content-type", "text/plain", "mqtt.response-topic", "r", "mqtt.correlation-data", "c", "mqtt.payload-format", "1", "mqtt.expiry", at, "mqtt.qos", "1", "by", "me"),
			headers("mqtt.topic", "cmd/d1", "weir.via", "edge/central", "mqtt.retain", "1", "mqtt.qos", "1"),
		}
		var got [][]log.Header
		for _, r := range inlet.all() {
			got = append(got, r.Headers)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if len(inlet.retained) != 1 || string(inlet.retained[0].Value) != "two" || len(buried) != 1 || d.taken != 2 || d.skipped != 1 {
			t.Errorf("retained %d, buried %d, taken %d, skipped %d", len(inlet.retained), len(buried), d.taken, d.skipped)
		}
		if s := b.sub.Subscriptions[0]; b.connect.CleanStart || *b.connect.Properties.SessionExpiryInterval != ^uint32(0) || s.Topic != "cmd/#" || s.QoS != 1 || !s.RetainAsPublished {
			t.Errorf("CONNECT %v, SUBSCRIBE %v", b.connect, b.sub)
		}
		cancel()
		<-ended
	})
}

// A commit that fails here leaves the message at the broker.
func TestDownFromMQTTFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &centreOf{code: 1, messages: []*packets.Publish{{PacketID: 1, QoS: 1, Topic: "cmd/d1", Properties: &packets.Properties{}}}}
		inlet := &memInlet{rng: rand.New(rand.NewPCG(1, 1)), fails: 1}
		d := downOf(t, inlet, &keptStore{}, fromMQTT, func(o *Options) { o.dial = b.dial })
		if err := d.mqtt(t.Context()); err == nil || len(b.acks()) > 0 {
			t.Errorf("%v, acknowledged %v", err, b.acks())
		}
	})
}

func TestDownSubscriptionRefused(t *testing.T) {
	for code, want := range map[byte]string{0x87: "refuses the subscription to cmd/#: 0x87 not authorized", 0: "with QoS 0 only"} {
		synctest.Test(t, func(t *testing.T) {
			b := &centreOf{code: code}
			d := downOf(t, &memInlet{}, &keptStore{}, fromMQTT, func(o *Options) { o.dial = b.dial })
			if err := d.mqtt(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

func TestDownConfig(t *testing.T) {
	ok := []Config{fromKafka, fromMQTT}
	ok[1].Name = "broker"
	ok[0].Down, ok[1].Down = []Down{{From: "commands"}}, []Down{{From: "+/cmd/#", To: "plant/commands"}}
	if err := Check(ok, ""); err != nil {
		t.Fatal(err)
	}
	if d := []Down{ok[0].Down[0], ok[1].Down[0]}; d[0] != (Down{From: "commands", Topic: "commands", To: "{mqtt.topic}", Start: "end"}) || d[1] != (Down{From: "+/cmd/#", Topic: "commands", To: "plant/commands"}) {
		t.Errorf("defaults: %+v", d)
	}
	for want, c := range map[string]struct {
		to    string
		downs []Down
	}{
		"down[0].from: \"a/b\" is no topic's name":                {"kafka://a:1", []Down{{From: "a/b"}}},
		"down[0].start: \"now\" is none of":                       {"kafka://a:1", []Down{{From: "a", Start: "now"}}},
		"down[0].topic: \"__uplinks\" is no topic's name":         {"kafka://a:1", []Down{{From: "a", Topic: "__uplinks"}}},
		"down[0].to: {device} is none of":                         {"kafka://a:1", []Down{{From: "a", To: "{device}"}}},
		"down[0].to: {site} needs node.site":                      {"kafka://a:1", []Down{{From: "a", To: "{site}/x"}}},
		"down[1].from: \"a\" comes down already":                  {"kafka://a:1", []Down{{From: "a"}, {From: "a", Topic: "b"}}},
		"down[0].from: \"a/#/b\" is no topic filter":              {"mqtt://a:1", []Down{{From: "a/#/b"}}},
		"down[0].from: \"a+\" is no topic filter":                 {"mqtt://a:1", []Down{{From: "a+"}}},
		"down[0].from: \"\" is no topic filter":                   {"mqtt://a:1", []Down{{}}},
		"down[0].from: \"$share/g/a\" is no topic filter: others": {"mqtt://a:1", []Down{{From: "$share/g/a"}}},
		"down[0].start: MQTT has none":                            {"mqtt://a:1", []Down{{From: "a", Start: "end"}}},
		"uplinks[0].down: 17 of them, at most 16":                 {"mqtt://a:1", make([]Down, 17)},
	} {
		if err := Check([]Config{{Name: "c", To: c.to, Down: c.downs}}, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
