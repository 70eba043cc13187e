package cluster

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

func TestFlood(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes [2]int
		gap   time.Duration
		on    bool
	}{
		{"much, and at once again", [2]int{floodBytes, floodBytes}, floodGap, true},
		{"much, and later again", [2]int{floodBytes, floodBytes}, floodGap + 1, false},
		{"much, then little", [2]int{floodBytes, floodBytes - 1}, 1, false},
		{"little, then much", [2]int{floodBytes - 1, floodBytes}, 1, false},
	} {
		var f flood
		began := time.Now()
		if f.answer(c.bytes[0], began); f.on {
			t.Errorf("%s: one answer is load", c.name)
		}
		if f.answer(c.bytes[1], began.Add(c.gap)); f.on != c.on {
			t.Errorf("%s: load is %v", c.name, f.on)
		}
	}
}

// quietLeader is a partition with one record, of which the only follower's session has been told all but that it is committed.
func quietLeader(t *testing.T) (*Broker, *Partition, *feedSession) {
	t.Helper()
	b, p := onePartition(t, nil)
	appendAll(t, p, "first")
	s := b.feeds.session(b, feedOf(p, 1))
	c := feedOf(p, 1)
	c.Parts[0].From, c.Parts[0].LastEpoch = 1, int32(p.epoch)
	if err := s.tell(c); err != nil {
		t.Fatal(err)
	}
	if news, _, done, _ := s.collect(false); len(news) != 1 || news[0].Bytes != 0 {
		t.Fatalf("the follower is told %+v", news)
	} else {
		done()
	}
	slot := s.slots[p.id]
	slot.toldHW = 0 // as if the record had been committed since
	slot.mark()
	return b, p, s
}

// Under load what is committed goes out with the records that come next.
func TestUnderLoadCommitsWaitForRecords(t *testing.T) {
	_, p, s := quietLeader(t)
	for range 2 {
		if news, _, _, held := s.collect(true); len(news) > 0 || !held {
			t.Fatalf("news %+v, held %v", news, held)
		}
	}
	appendAll(t, p, "second")
	news, raw, done, held := s.collect(true)
	if len(news) != 1 || news[0].Bytes == 0 || news[0].HW < 1 || held {
		t.Fatalf("with a record: %+v, held %v", news, held)
	}
	if got := log.Batch(raw).BaseOffset(); got != 1 {
		t.Errorf("the record at %d", got)
	}
	done()
}

// Records that come while it waits end the wait at once: they have acknowledgements behind them.
func TestRecordsEndAHold(t *testing.T) {
	_, p, s := quietLeader(t)
	s.flood.on = true
	if news, _, _, held := s.collect(true); len(news) > 0 || !held {
		t.Fatalf("news %+v, held %v", news, held)
	}
	for len(s.wake) > 0 {
		<-s.wake
	}
	appendAll(t, p, "second")
	select {
	case <-s.wake:
	case <-within(t).Done():
		t.Error("records came, and nobody was woken")
	}
}

// But not for ever, and where there is no load not at all.
func TestCommitsAreToldWithoutRecords(t *testing.T) {
	for _, load := range []bool{false, true} {
		b, p, s := quietLeader(t)
		s.flood.on = load
		a, err := b.answerFeed(within(t), &feedCall{Broker: p.b.id, Epoch: 1, Session: 1, Seq: 2, WaitMS: 60_000})
		if news := a.Control.(feedAnswer).Parts; err != nil || len(news) != 1 || news[0].HW < 1 {
			t.Errorf("load %v: %+v, %v", load, news, err)
		}
		if s.flood.on {
			t.Error("an answer without records is load")
		}
	}
}

// Who only observes gets no records to wait for.
func TestObserversWaitForNoRecords(t *testing.T) {
	_, p, s := quietLeader(t)
	s.slots[p.id].asked.Observe = true
	if news, _, done, held := s.collect(true); len(news) != 1 || held {
		t.Errorf("news %+v, held %v", news, held)
	} else {
		done()
	}
}

// flooding is a leader that answers each call that waits with the same batch.
type flooding struct {
	batch  log.Batch
	logEnd int64

	mu    sync.Mutex
	calls []*feedCall
	idle  bool // it holds on to calls that wait
}

func (l *flooding) call(ctx context.Context, _ meta.UUID, _ rpc.Method, request any, _ []byte, answer any) (rpc.Reply, error) {
	c := request.(*feedCall)
	l.mu.Lock()
	l.calls = append(l.calls, c)
	holds := len(l.calls) > 50 || l.idle
	l.mu.Unlock()
	if c.WaitMS == 0 {
		return rpc.Reply{}, nil
	}
	if holds { // nobody pauses
		<-ctx.Done()
		return rpc.Reply{}, ctx.Err()
	}
	answer.(*feedAnswer).Parts = []feedNews{{wirePartition: toWire(log.PartitionID{Index: 1}), LogEnd: l.logEnd, Bytes: len(l.batch)}}
	return rpc.Reply{Raw: l.batch}, nil
}

// made are the calls so far.
func (l *flooding) made() []*feedCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

// hold has the leader hold on to calls that wait from now on.
func (l *flooding) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = true
}

func (l *flooding) follow(t *testing.T, test func(f *fetcher, p *manyFollowed)) {
	synctest.Test(t, func(t *testing.T) {
		p := manyFollowed{Index: 1}
		f := newFetcher(&Broker{net: l, cfg: testConfig("").withDefaults()}, 1, meta.UUID{})
		f.parts[p.ID()] = &p
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.follow(ctx)
		synctest.Wait()
		test(f, &p)
		cancel()
		synctest.Wait()
	})
}

// Under load one call tells what was synced of the last records and asks for the next.
func TestUnderLoadOneCallTellsAndAsks(t *testing.T) {
	l := &flooding{batch: oneBatch(-1, -1, strings.Repeat("x", floodBytes)), logEnd: 1}
	l.follow(t, func(f *fetcher, p *manyFollowed) {
		const first = 3 // the session's, and two that were answered with many records
		if len(l.made()) != first {
			t.Fatalf("%d calls before anything was synced", len(l.made()))
		}
		f.mark(p)
		synctest.Wait()
		if len(l.made()) != first+1 || l.made()[first].WaitMS == 0 || len(l.made()[first].Parts) != 1 {
			t.Fatalf("once it was synced: %d calls, the last %+v", len(l.made()), l.made()[len(l.made())-1])
		}
		began := time.Now()
		for len(l.made()) == first+1 && time.Since(began) < 2*feedPause {
			time.Sleep(feedPause / 8)
			synctest.Wait()
		}
		if waited := time.Since(began); waited != feedPause || len(l.made()) != first+2 || l.made()[first+1].WaitMS == 0 {
			t.Fatalf("while the sync takes long: after %v %+v", waited, l.made()[len(l.made())-1])
		}
		l.hold()
		f.mark(p)
		synctest.Wait()
		before := len(l.made())
		f.mark(p)
		synctest.Wait()
		if calls := l.made()[before:]; len(calls) != 1 || calls[0].WaitMS > 0 {
			t.Errorf("while a call waits: %+v", calls)
		}
	})
}

// A follower that has to catch up asks at once, and so does one that gets little.
func TestWhoCatchesUpDoesNotPause(t *testing.T) {
	for name, l := range map[string]*flooding{
		"behind": {batch: oneBatch(-1, -1, strings.Repeat("x", floodBytes)), logEnd: 3},
		"little": {batch: oneBatch(-1, -1, strings.Repeat("x", floodBytes/2)), logEnd: 1},
	} {
		l.follow(t, func(*fetcher, *manyFollowed) {
			if len(l.made()) < 50 {
				t.Errorf("%s: %d calls", name, len(l.made()))
			}
		})
	}
}
