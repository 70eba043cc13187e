package deliver

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// While the pass after a restart is under way, what it has not reached is not passed, and a place stored then below an
// older floor is not raised to it.
func TestFloorStaysBehindTheSharedPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newTestHub(t, 1, func(c *Config) { c.Limits.ReadBytes = 1 })
		l := th.logs[0]
		for i := range 20 {
			l.commit(published("a", fmt.Sprint(i), 1))
		}
		var cur Cursor
		cur.Set(l.id, 5)
		l.fail = errors.New("not just now")
		th.Restore("dev", cur, []Sub{{Filter: "a", QoS: 1}})
		th.start()
		defer th.stop()
		a, ok := th.Absent()
		if next, _ := a.Floor.Next(l.id); !ok || next != 5 {
			t.Fatalf("floor %d, %v during the pass, want 5", next, ok)
		}
		if !th.Rebuilding() {
			t.Error("not rebuilding")
		}
		// What a session that was connected when the node fell is stored with, if it comes and goes now.
		var older Cursor
		older.Set(l.id, 20)
		place := th.Cursor("dev")
		if !place.MarkBelow(older) {
			t.Error("no mark")
		}
		place.Raise(older)
		if next, _ := place.Next(l.id); next != 5 {
			t.Errorf("raised to %d", next)
		}
		l.mu.Lock()
		l.fail = nil
		l.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if a, _ = th.Absent(); !slices.Equal(a.Behind, []string{"dev"}) {
			t.Errorf("%v to be stored", a.Behind)
		}
		if next, _ := a.Floor.Next(l.id); next != 20 || th.Rebuilding() {
			t.Errorf("floor %d after the pass", next)
		}
		if again, _ := th.Absent(); !slices.Equal(again.Behind, []string{"dev"}) {
			t.Errorf("%v before that is noted", again.Behind)
		}
		th.Noted(a)
		if again, _ := th.Absent(); len(again.Behind) != 0 {
			t.Errorf("%v to be stored twice", again.Behind)
		}
	})
}

// Retention that passes an absent session's messages is counted when it happens, exactly where they are known.
func TestRetentionPassesAnAbsentSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost []string
		th := startHub(t, 1, func(c *Config) {
			c.Lost = func(id string, l Loss) {
				lost = append(lost, fmt.Sprint(id, " ", l.First, " ", l.Next, " ", l.Messages))
			}
		})
		defer th.stop()
		l := th.logs[0]
		th.Restore("dev", Cursor{}, []Sub{{Filter: "a", QoS: 1}})
		for i := range 12 {
			l.commit(published([]string{"a", "b", "b"}[i%3], fmt.Sprint(i), 1))
		}
		synctest.Wait()
		a, _ := th.Absent()
		th.Noted(a)
		l.setStart(5)
		a, _ = th.Absent()
		if want := []string{"dev 0 5 2"}; !slices.Equal(lost, want) || !slices.Equal(a.Behind, []string{"dev"}) {
			t.Fatalf("lost %q, want %q; %v to be stored", lost, want, a.Behind)
		}
		if at, _ := th.Cursor("dev").Next(l.id); at != 6 {
			t.Errorf("stands at %d, want 6", at)
		}
		th.Noted(a)
		l.setStart(12)
		if a, _ = th.Absent(); !slices.Equal(a.Behind, []string{"dev"}) || th.Stats().Lagging != 0 || th.Stats().LostRecords != 4 {
			t.Errorf("%v to be stored, %+v", a.Behind, th.Stats())
		}
		if b := th.Cursor("dev").Behind(); b.Len() != 0 {
			t.Errorf("still behind")
		}
		th.Noted(a)
		target := newTarget(-1)
		th.Attach("dev", target, true, Cursor{}, nil)
		l.commit(published("a", "new", 1))
		synctest.Wait()
		wantPayloads(t, target, "new")
		if len(lost) != 2 {
			t.Errorf("%q", lost)
		}
	})
}

// A hundred thousand sessions must not be written in one second: the floor waits for the rest.
func TestFloorWaitsForThoseNotNamedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		l := th.logs[0]
		const n = absentPerRound + 10
		for i := range n {
			th.Restore(fmt.Sprint("dev", i), Cursor{}, []Sub{{Filter: "a", QoS: 1}})
		}
		l.commit(published("b", "x", 1), published("a", "x", 1), published("b", "x", 1))
		synctest.Wait()
		a, _ := th.Absent()
		if at, _ := a.Floor.Next(l.id); len(a.Behind) != absentPerRound || at != 1 {
			t.Errorf("%d named, floor %d", len(a.Behind), at)
		}
		th.Noted(a)
		a, _ = th.Absent()
		if at, _ := a.Floor.Next(l.id); len(a.Behind) != 10 || at != log.Offset(3) {
			t.Errorf("%d named, floor %d", len(a.Behind), at)
		}
	})
}
