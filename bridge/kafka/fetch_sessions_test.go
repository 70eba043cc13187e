package kafka

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// check counts everything again.
func (c *fetchSessions) check() error {
	bytes, parts, seen := int64(0), int64(0), 0
	var older *fetchSession
	for s := c.oldest; s != nil; s = s.newer {
		if seen++; s.older != older || c.byID[s.id] != s || s.id <= 0 || s.epoch <= 0 {
			return fmt.Errorf("session %d epoch %d is not linked well", s.id, s.epoch)
		}
		if older != nil && s.used.Before(older.used) {
			return fmt.Errorf("session %d was used before session %d", s.id, older.id)
		}
		older = s
		if err := s.check(); err != nil {
			return fmt.Errorf("session %d: %w", s.id, err)
		}
		bytes, parts = bytes+s.size, parts+int64(len(s.parts))
		if s.size != s.counted || len(s.parts) > c.maxParts {
			return fmt.Errorf("session %d has %d bytes, %d counted, %d partitions", s.id, s.size, s.counted, len(s.parts))
		}
	}
	if seen != len(c.byID) || c.newest != older || bytes != c.bytes || parts != c.parts || seen > c.maxSessions || bytes > c.maxBytes {
		return fmt.Errorf("%d sessions of %d bytes and %d partitions, %d of %d and %d counted", seen, bytes, parts, len(c.byID), c.bytes, c.parts)
	}
	return nil
}

func (s *fetchSession) check() error {
	size, of := int64(sessionBytes), make(map[*sessionTopic]int)
	var prev *sessionPart
	n := 0
	for p := s.first; p != nil; p = p.next {
		if n++; p.prev != prev || s.parts[sessionPartKey{p.topic, p.index}] != p {
			return errors.New("partitions are not linked well")
		}
		prev = p
		of[p.topic]++
		size += sessionPartBytes
	}
	for k, t := range s.topics {
		if of[t] != t.parts || t.parts == 0 || k.id != t.id {
			return fmt.Errorf("topic %v counts %d partitions, has %d", k, t.parts, of[t])
		}
		size += sessionTopicBytes + 2*int64(len(k.name))
	}
	if n != len(s.parts) || s.last != prev || len(of) != len(s.topics) || size != s.size {
		return fmt.Errorf("%d partitions of %d topics, %d bytes, %d counted", n, len(of), size, s.size)
	}
	return nil
}

// believed is what a client thinks of its session: the model.
type believed struct {
	s     *fetchSession
	epoch int32
	used  time.Time
	asks  map[string]partAsk
	order []string
}

func TestFetchSessionsModel(t *testing.T) {
	for seed := range uint64(200) {
		sessionsModel(t, rand.New(rand.NewPCG(seed, 7)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func sessionsModel(t *testing.T, r *rand.Rand) {
	now := time.Unix(1000, 0)
	c := fetchSessions{maxSessions: 3, maxParts: 6, maxBytes: 3*sessionBytes + 10*(sessionPartBytes+sessionTopicBytes), minIdle: 10 * time.Second,
		newID: func() int32 { return r.Int32N(6) - 1 }}
	model := make(map[int32]*believed)
	for range 300 {
		now = now.Add(time.Duration(r.IntN(4000)) * time.Millisecond)
		id := r.Int32N(6) - 1
		m, s := model[id], c.byID[id]
		if (m == nil) != (s == nil) {
			t.Fatalf("session %d: is %v, want %v", id, s, m)
		}
		evictable := func() (oldest int32, ok bool) {
			for id, m := range model {
				if now.Sub(m.used) > c.minIdle && (!ok || m.used.Before(model[oldest].used)) {
					oldest, ok = id, true
				}
			}
			return oldest, ok
		}
		// ask puts and forgets at random, in both.
		ask := func(s *fetchSession, m *believed, n int) {
			for range n {
				topic, index := fmt.Sprint("topic", r.IntN(3)), r.Int32N(4)
				key := fmt.Sprintf("%s/%d", topic, index)
				if r.IntN(3) == 0 && m.epoch > 1 {
					s.forget(log.TopicID{}, []byte(topic), index)
					delete(m.asks, key)
					m.order = slices.DeleteFunc(m.order, func(k string) bool { return k == key })
					continue
				}
				a := partAsk{offset: log.Offset(r.IntN(1000)), epoch: r.Int32N(5), maxBytes: r.Int32N(100)}
				s.put(log.TopicID{}, []byte(topic), index, a)
				if _, ok := m.asks[key]; !ok {
					m.order = append(m.order, key)
				}
				m.asks[key] = a
			}
		}
		switch op := r.IntN(5); {
		case op == 0 && s != nil: // closed
			c.remove(s)
			delete(model, id)
		case op == 1:
			s := newFetchSession(false)
			m := &believed{s: s, epoch: 1, used: now, asks: make(map[string]partAsk)}
			ask(s, m, 1+r.IntN(8))
			oldest, _ := evictable()
			added := c.add(s, now)
			evicted := 0
			for id, m := range model {
				if c.byID[id] != m.s {
					delete(model, id)
					evicted++
				}
			}
			switch {
			case evicted > 0 && model[oldest] != nil:
				t.Fatalf("others were evicted before the oldest, session %d", oldest)
			case added:
				model[s.id] = m
			case len(model) < c.maxSessions && len(s.parts) <= c.maxParts && c.bytes+s.size <= c.maxBytes:
				t.Fatal("no session, though there is room")
			case len(s.parts) <= c.maxParts:
				if _, ok := evictable(); ok {
					t.Fatal("no session, though another could go")
				}
			}
		case s != nil:
			if _, code := c.find(id, m.epoch+1, false); code != errInvalidFetchSessionEpoch {
				t.Fatalf("wrong epoch: code %d", code)
			}
			if _, code := c.find(id, m.epoch, true); code != errFetchSessionTopicID {
				t.Fatalf("by topic id: code %d", code)
			}
			if found, code := c.find(id, m.epoch, false); code != errNone || found != s {
				t.Fatalf("code %d", code)
			}
			m.epoch++
			m.used = now
			ask(s, m, r.IntN(3))
			if !c.use(s, now) {
				delete(model, id)
			}
			for id := range model {
				if c.byID[id] != model[id].s {
					if now.Sub(model[id].used) <= c.minIdle {
						t.Fatalf("session %d was evicted while in use", id)
					}
					delete(model, id)
				}
			}
			if served := s.first; served != nil && r.IntN(2) == 0 && model[id] != nil {
				key := fmt.Sprintf("%s/%d", served.topic.name, served.index)
				s.answered(served, partTold{5, 0}, true)
				m.order = append(slices.DeleteFunc(m.order, func(k string) bool { return k == key }), key)
			}
		default:
			if _, code := c.find(id, 1, false); code != errFetchSessionIDNotFound {
				t.Fatalf("no session: code %d", code)
			}
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		for id, m := range model {
			asks, order := make(map[string]partAsk), []string(nil)
			for p := c.byID[id].first; p != nil; p = p.next {
				key := fmt.Sprintf("%s/%d", p.topic.name, p.index)
				asks[key], order = p.ask, append(order, key)
			}
			if !maps.Equal(asks, m.asks) || !slices.Equal(order, m.order) || c.byID[id].epoch != m.epoch {
				t.Fatalf("session %d serves %v in epoch %d, the client believes %v in %d", id, order, c.byID[id].epoch, m.order, m.epoch)
			}
		}
	}
}

// The least recently used makes room, once it has been idle for long enough.
func TestFetchSessionEviction(t *testing.T) {
	next := int32(0)
	now := time.Unix(1000, 0)
	c := fetchSessions{maxSessions: 2, maxParts: 10, maxBytes: 1 << 20, minIdle: time.Minute, newID: func() int32 { next++; return next }}
	add := func() (*fetchSession, bool) {
		s := newFetchSession(true)
		s.put(log.TopicID{1}, nil, 0, partAsk{})
		return s, c.add(s, now)
	}
	first, _ := add()
	second, _ := add()
	now = now.Add(time.Minute)
	if !c.use(first, now) {
		t.Fatal("first is refused")
	}
	if _, ok := add(); ok {
		t.Error("a session took the place of one that was used a minute ago")
	}
	now = now.Add(time.Second)
	third, ok := add()
	if !ok || c.byID[second.id] != nil || c.byID[first.id] == nil || c.evicted != 1 {
		t.Errorf("third %v, sessions %v, %d evicted", ok, c.byID, c.evicted)
	}
	// One that outgrows all room goes itself.
	c.maxBytes = c.bytes
	third.put(log.TopicID{1}, nil, 1, partAsk{})
	if c.use(third, now) || c.byID[third.id] != nil {
		t.Error("a session grew over the limit")
	}
	if err := c.check(); err != nil {
		t.Error(err)
	}
}

func TestFetchSessionEpochsWrap(t *testing.T) {
	c := fetchSessions{maxSessions: 1, maxParts: 1, maxBytes: 1 << 20, newID: func() int32 { return 1 }}
	s := newFetchSession(false)
	c.add(s, time.Now())
	s.epoch = 1<<31 - 2
	if c.use(s, time.Now()); s.epoch != 1 {
		t.Errorf("epoch %d", s.epoch)
	}
}

// What is counted for a session is no less than what it takes.
func TestFetchSessionBytes(t *testing.T) {
	for name, shape := range map[string]struct{ sessions, topics, parts int }{
		"many small": {1000, 1, 1}, "many topics": {5, 2000, 1}, "many partitions": {5, 1, 4000}, "some of each": {50, 20, 10},
	} {
		t.Run(name, func(t *testing.T) {
			names := make([][]byte, shape.topics)
			for i := range names {
				names[i] = fmt.Appendf(nil, "telemetry.%06d", i)
			}
			c := fetchSessions{maxSessions: 1000, maxParts: maxSessionParts, maxBytes: 1 << 40, newID: rand.Int32}
			before := heapBytes()
			for range shape.sessions {
				s := newFetchSession(false)
				for i := range shape.topics * shape.parts {
					s.put(log.TopicID{}, names[i%shape.topics], int32(i/shape.topics), partAsk{})
				}
				if !c.add(s, time.Now()) {
					t.Fatal("no room")
				}
			}
			if got := heapBytes() - before; got > c.bytes || got < c.bytes/4 {
				t.Errorf("%d bytes are taken, %d are counted", got, c.bytes)
			}
			runtime.KeepAlive(&c)
		})
	}
}

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
