package mqtt

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/packet"
)

// What was published first stands first, also where it is known not to be in the log only later than what was published behind it. M3 M4
func TestQoS2RepeatIsNotOvertaken(t *testing.T) {
	r := startRig(t, nil)
	p, _ := r.v5("dev", lasting(1000))
	p.publish("warm", "up", 1, 1)
	p.expect(0x40, 2, 0, 1)
	eventually(t, "the session is stored", func() bool { return r.sessions.has("dev") })
	r.log.set(errFakeDown, false)
	p.publish("a", "first", 2, 7)
	eventually(t, "the intent is stored", func() bool { return r.sessions.has("dev\x00i") })
	sessions, retained := r.sessions.clone(), r.retained.clone()
	p.c.Close()
	r.stop()
	r.log.mu.Lock()
	r.log.watchers = nil
	r.log.mu.Unlock()
	r.log.set(nil, true)

	r = startOn(t, r.log, sessions, retained, nil)
	other, _ := r.v5("other", lasting(0))
	other.publish("a", "held up", 1, 1)
	other.quiet()
	p, _ = r.v5("dev", lasting(1000))
	p.repeat("a", "first", 7)
	p.publish("a", "second", 2, 8)
	eventually(t, "the first is searched for, and the second has its intent", func() bool {
		var list []intentRecord
		if v, ok := r.sessions.get("dev\x00i"); ok {
			if err := cbor.Unmarshal([]byte(v), &list); err != nil {
				t.Fatal(err)
			}
		}
		return r.log.settling("telemetry") > 0 && len(list) == 2
	})
	p.quiet()
	r.log.set(nil, false)
	p.expect(0x50, 2, 0, 7)
	p.expect(0x50, 2, 0, 8)
	r.expectOrder(t, "dev", "up", "first", "second")
}

// expectOrder compares what the log has of a device.
func (r *rig) expectOrder(t *testing.T, device string, want ...string) {
	t.Helper()
	var got []string
	for _, rec := range r.log.records(t, "telemetry") {
		if string(rec.Key) == device {
			got = append(got, string(rec.Value))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

func (p *peer) repeat(topic, payload string, id uint16) {
	p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: 2, ID: id, Dup: true}, packet.V5)...)
}

// A publish that the log does not take in time ends the connection. What was published behind it waited, and waits for its repeat, which comes behind the
// other's. M3 M8
func TestQoS2GivenUpIsNotOvertaken(t *testing.T) {
	inBubble(t, func(c *Config) { c.AckTimeout = 300 * time.Millisecond }, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		p.publish("warm", "up", 1, 1)
		p.expect(0x40, 2, 0, 1)
		r.log.set(errFakeDown, false)
		p.publish("a", "first", 2, 7)
		time.Sleep(100 * time.Millisecond)
		p.publish("a", "second", 2, 8)
		p.expectType(packet.DISCONNECT)
		p.expectEnd()
		r.log.set(nil, false)
		time.Sleep(time.Second) // whatever is still tried again has been
		p, _ = r.v5("dev", lasting(1000))
		p.repeat("a", "first", 7)
		p.repeat("a", "second", 8)
		p.expect(0x50, 2, 0, 7)
		p.expect(0x50, 2, 0, 8)
		r.expectOrder(t, "dev", "up", "first", "second")
	})
}

// A publish whose record could not be looked for is an earlier connection's: this one, which has not repeated it, goes on. M8
func TestQoS2GoesOnBehindAnUnknownOutcome(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		r.log.set(nil, true)
		p.publish("a", "first", 2, 7)
		synctest.Wait()
		r.log.commit(errFakeDown)
		p.expectType(packet.DISCONNECT)
		r.log.mu.Lock()
		r.log.settle, r.log.manual = make(chan error), false
		r.log.mu.Unlock()
		p, _ = r.v5("dev", lasting(1000))
		p.repeat("a", "first", 7)
		synctest.Wait()
		p.c.Close()
		p, _ = r.v5("dev", lasting(1000))
		p.publish("a", "second", 2, 8)
		p.quiet()
		r.log.settle <- errFakeDown
		p.expect(0x50, 2, 0, 8)
		r.expectOrder(t, "dev", "second")
	})
}

// movingSink is a log whose partitions get another leader with each term: who has the way to the one before is refused.
type movingSink struct {
	*fakeLog
	term atomic.Int64
}

type ledPartition struct {
	Partition
	sink *movingSink
	term int64
}

func (s *movingSink) Topic(name string) ([]Partition, error) {
	ps, err := s.fakeLog.Topic(name)
	for i := range ps {
		ps[i] = ledPartition{ps[i], s, s.term.Load()}
	}
	return ps, err
}

func (p ledPartition) Append(r *log.Record, w Waiter, seq uint64) error {
	if p.term != p.sink.term.Load() {
		return errFakeDown
	}
	return p.Partition.Append(r, w, seq)
}

// A record of QoS 2 whose partition gets another leader before it is appended goes to that one: the way to the old one is refused for ever. M8
func TestQoS2GoesOnWithTheNextLeader(t *testing.T) {
	var sink *movingSink
	inBubble(t, func(c *Config) {
		sink = &movingSink{fakeLog: c.Sink.(*fakeLog)}
		c.Sink, c.AckTimeout = sink, 5*time.Second
	}, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		p.publish("warm", "up", 1, 1)
		p.expect(0x40, 2, 0, 1)
		sink.term.Add(1)
		p.publish("a", "x", 2, 7)
		p.expect(0x50, 2, 0, 7)
		if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 1 {
			t.Errorf("%d records, want 1", n)
		}
	})
}
