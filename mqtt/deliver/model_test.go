package deliver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/weir-io/weir/log"
	"pgregory.net/rapid"
)

// naiveMatch is §4.7 in its plainest form.
func naiveMatch(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false
	}
	f, l := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(l) || level != "+" && level != l[i] {
			return false
		}
	}
	return len(f) == len(l)
}

// modelRecord is a committed record with its place in the order of all commits.
type modelRecord struct {
	topic string
	qos   byte
	seq   int
}

// modelClient is what the rules of doc.go say about one durable session.
type modelClient struct {
	id       string
	target   *fakeTarget    // nil = absent
	subs     map[string]int // filter → seq at which it was made; its QoS is filterQoS's
	given    []log.Offset   // by partition: first offset not given
	attached int            // seq of the last Attach
	moments  map[string]Cursor
	disk     storedSession
}

// storedSession is what the sessions table holds of a client.
type storedSession struct {
	cur  Cursor
	open bool // written while it was connected
	subs []Sub
}

// filterQoS gives each filter one QoS for good, so that the model need not follow changes.
var filterQoS = map[string]byte{"a": 1, "a/b": 0, "+": 2, "#": 1, "a/#": 0, "+/b": 1, "$x": 1, "+/#": 0, "/": 1}

type model struct {
	t       *rapid.T
	th      *testHub
	change  func(*Config)
	records [][]modelRecord // by partition
	seq     int
	clients []*modelClient
	floor   Cursor   // in the table
	next    *Absence // becomes the floor
}

// grant is what a client is due for a record: must (QoS > 0), or may (QoS 0 while it stayed connected).
func (c *modelClient) grant(r modelRecord) (must, may bool) {
	qos, covered := byte(0), false
	for filter, since := range c.subs {
		if naiveMatch(filter, r.topic) && since <= r.seq {
			qos, covered = max(qos, filterQoS[filter]), true
		}
	}
	qos = min(qos, r.qos)
	return covered && qos > 0, covered && (qos > 0 || r.seq >= c.attached)
}

// save writes a client's record.
func (m *model) save(c *modelClient) {
	m.check()
	st := storedSession{cur: m.th.Cursor(c.id), open: c.target != nil}
	if !st.open {
		st.cur.MarkBelow(m.floor)
	}
	for filter := range c.subs {
		c.moments[filter] = c.moments[filter].Beyond(st.cur)
		st.subs = append(st.subs, Sub{Filter: filter, QoS: filterQoS[filter], Since: c.moments[filter]})
	}
	c.disk = st
}

// startFloor and finishFloor are the two halves of storing what holds for all absent sessions; anything may happen
// between them.
func (m *model) startFloor() {
	m.check()
	if m.next != nil {
		return
	}
	a, ok := m.th.Absent()
	if !ok {
		return
	}
	cut := -1
	if rapid.IntRange(0, 4).Draw(m.t, "interrupted") == 0 && len(a.Behind) > 0 {
		cut = rapid.IntRange(0, len(a.Behind)-1).Draw(m.t, "after")
	}
	for i, id := range a.Behind {
		if i == cut {
			return
		}
		m.save(m.clients[slices.IndexFunc(m.clients, func(c *modelClient) bool { return c.id == id })])
	}
	m.next = &a
}

func (m *model) finishFloor() {
	if m.next == nil {
		return
	}
	m.th.Noted(*m.next)
	floor := m.next.Floor.Clone()
	floor.RaiseKnown(m.floor)
	m.floor, m.next = floor, nil
}

// damageNotes loses, cuts or flips some of what is kept beside segments.
func (m *model) damageNotes() {
	m.check()
	for _, l := range m.th.logs {
		for _, first := range slices.Sorted(maps.Keys(l.notes)) {
			n := l.notes[first]
			if len(n) == 0 {
				continue
			}
			switch at := rapid.IntRange(0, len(n)-1).Draw(m.t, "at"); rapid.IntRange(0, 3).Draw(m.t, "damage") {
			case 0:
				delete(l.notes, first)
			case 1:
				l.notes[first] = n[:at]
			case 2:
				n[at] ^= 1 << rapid.IntRange(0, 7).Draw(m.t, "bit")
			}
		}
	}
}

// crash goes on with what the table holds. What was given since may be given again, down to the stored place.
func (m *model) crash() {
	m.check()
	m.th.stop()
	m.th.open(m.change)
	m.next = nil
	for _, c := range m.clients {
		c.target = nil
		cur := stored(m.t, c.disk.cur)
		cur.MarkBehind(stored(m.t, c.disk.cur.Behind()))
		if !c.disk.open {
			cur.Raise(stored(m.t, m.floor))
		}
		for p := range m.records {
			next, _ := cur.Next(m.th.logs[p].id)
			if next < c.given[p] {
				c.given[p] = next
			}
			m.cursorFits(c, p, next)
		}
		c.attached = m.seq
		m.th.Restore(c.id, cur, c.disk.subs)
	}
	m.th.start()
}

// stored sends a cursor through its stored form, which has no marks.
func stored(t *rapid.T, c Cursor) (back Cursor) {
	raw, err := c.MarshalCBOR()
	if err == nil {
		err = back.UnmarshalCBOR(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// check takes what was delivered since the last check.
func (m *model) check() {
	synctest.Wait()
	m.checkNotes()
	for _, c := range m.clients {
		if c.target == nil {
			continue
		}
		for _, g := range c.target.take() {
			m.given(c, g)
		}
		c.target.mu.Lock()
		full := c.target.room == 0
		c.target.mu.Unlock()
		if !full {
			m.nothingDue(c)
		}
	}
}

// checkNotes wants every topic of the records that a note speaks of to be in it.
func (m *model) checkNotes() {
	for p, l := range m.th.logs {
		for at, recs := log.Offset(0), m.records[p]; int(at) < len(recs); {
			span, _ := l.SpanAt(at)
			at = span.Next
			first, rest, ok := readNote(l.Note(span.First), span)
			if !ok {
				continue
			}
			topics := map[string]bool{}
			for len(rest) > 0 {
				var topic []byte
				topic, rest, _ = nextTopic(rest)
				topics[string(topic)] = true
			}
			for o := first; o < span.Next; o++ {
				if !topics[recs[o].topic] {
					m.t.Fatalf("the note of %+v in %d, from %d on, lacks %q of %d", span, p, first, recs[o].topic, o)
				}
			}
		}
	}
}

func (m *model) given(c *modelClient, g got) {
	recs := m.records[g.part]
	if g.offset < c.given[g.part] {
		m.t.Fatalf("%s got offset %d of %d again", c.id, g.offset, g.part)
	}
	for o := c.given[g.part]; o < g.offset; o++ {
		if must, _ := c.grant(recs[o]); must {
			m.t.Fatalf("%s got %d of %d before %d %+v", c.id, g.offset, g.part, o, recs[o])
		}
	}
	if _, may := c.grant(recs[g.offset]); !may {
		m.t.Fatalf("%s got %d of %d %+v, which is not for it", c.id, g.offset, g.part, recs[g.offset])
	}
	c.given[g.part] = g.offset + 1
}

func (m *model) nothingDue(c *modelClient) {
	for p, recs := range m.records {
		for o := c.given[p]; int(o) < len(recs); o++ {
			if must, _ := c.grant(recs[o]); must {
				m.t.Fatalf("%s has room and was not given %d of %d %+v (subs %v)", c.id, o, p, recs[o], c.subs)
			}
		}
	}
}

func (m *model) commit() {
	p := rapid.IntRange(0, len(m.records)-1).Draw(m.t, "partition")
	var records []log.Record
	for range rapid.IntRange(1, 6).Draw(m.t, "records") {
		topic := rapid.SampledFrom([]string{"a", "b", "a/b", "a/b/c", "$x", "/", "c/b"}).Draw(m.t, "topic")
		qos := byte(rapid.IntRange(0, 2).Draw(m.t, "qos"))
		records = append(records, published(topic, "x", qos))
		m.records[p] = append(m.records[p], modelRecord{topic, qos, m.seq})
		m.seq++
	}
	var bb log.BatchBuilder
	bb.SetCompression(log.Compression(rapid.SampledFrom([]int{0, 0, 2}).Draw(m.t, "codec")))
	m.th.logs[p].commitWith(&bb, records...)
}

func (m *model) attach(c *modelClient) {
	m.check()
	if c.target != nil {
		return
	}
	c.target = newTarget(m.drawRoom())
	c.attached = m.seq
	c.disk.open = true // its record is committed before any floor that takes it for absent
	m.th.Attach(c.id, c.target, true, Cursor{}, nil)
	m.save(c)
}

func (m *model) drawRoom() int { return rapid.SampledFrom([]int{0, 1, 2, 3, 10, -1}).Draw(m.t, "room") }

// detach checks that the cursor leaves out nothing due and takes back nothing given.
func (m *model) detach(c *modelClient) Cursor {
	if c.target == nil {
		return m.th.Cursor(c.id)
	}
	cur := m.th.Detach(c.id)
	for _, g := range c.target.take() {
		m.given(c, g)
	}
	c.target = nil
	for p := range m.records {
		next, ok := cur.Next(m.th.logs[p].id)
		if !ok {
			m.t.Fatalf("the cursor of %s has no partition %d", c.id, p)
		}
		m.cursorFits(c, p, next)
	}
	return cur
}

func (m *model) cursorFits(c *modelClient, p int, next log.Offset) {
	if next < c.given[p] {
		m.t.Fatalf("cursor of %s in %d is %d, %d was given", c.id, p, next, c.given[p]-1)
	}
	for o := c.given[p]; o < next; o++ {
		if must, _ := c.grant(m.records[p][o]); must {
			m.t.Fatalf("cursor of %s in %d is %d, which skips %d", c.id, p, next, o)
		}
	}
	c.given[p] = next
}

func (m *model) restart() {
	m.check()
	var all []storedSession
	for _, c := range m.clients {
		cur := m.detach(c)
		for p := range m.records {
			next, _ := cur.Next(m.th.logs[p].id)
			m.cursorFits(c, p, next)
		}
		m.save(c)
		st := c.disk
		st.cur = stored(m.t, st.cur)
		all = append(all, st)
	}
	m.th.stop()
	m.next = nil
	m.th.open(m.change)
	late := rapid.Bool().Draw(m.t, "restored after the start")
	restore := func() {
		for i, c := range m.clients {
			m.th.Restore(c.id, all[i].cur, all[i].subs)
		}
	}
	if !late {
		restore()
	}
	m.th.start()
	if late {
		restore()
	}
}

func (m *model) subscribe(c *modelClient) {
	m.check()
	filter := rapid.SampledFrom(slices.Sorted(mapKeys(filterQoS))).Draw(m.t, "filter")
	now := m.th.Ends()
	existed := m.th.subscribe(c.id, Sub{Filter: filter, QoS: filterQoS[filter], ID: 1, Since: now})
	if _, had := c.subs[filter]; had != existed {
		m.t.Fatalf("subscription of %s to %s existed: %v", c.id, filter, existed)
	} else if !had {
		c.subs[filter], c.moments[filter] = m.seq, now
	}
	m.save(c)
}

func mapKeys(m map[string]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (m *model) unsubscribe(c *modelClient) {
	m.check()
	filter := rapid.SampledFrom(slices.Sorted(mapKeys(filterQoS))).Draw(m.t, "filter")
	_, had := c.subs[filter]
	if existed := m.th.Unsubscribe(c.id, filter); existed != had {
		m.t.Fatalf("unsubscribe of %s from %s: %v", c.id, filter, existed)
	}
	delete(c.subs, filter)
	m.save(c)
}

// inBubble runs one check of rapid in a synctest bubble and carries its verdict, a panic, out of it.
func inBubble(t *testing.T, rt *rapid.T, check func(t *testing.T, rt *rapid.T)) {
	var verdict any
	synctest.Test(t, func(t *testing.T) {
		defer func() { verdict = recover() }()
		check(t, rt)
	})
	// rapid tells failures apart by the line that panicked, and drops what is none by its type: with one line for both it
	// would shrink a failure until its data runs out, and report that.
	if fmt.Sprintf("%T", verdict) == "rapid.invalidData" {
		panic(verdict)
	}
	if verdict != nil {
		panic(verdict)
	}
}

// No committed record that a durable session is due is ever skipped, given twice, or given out of
// order, whatever its target does, across postings, scans, rebuilds and restarts.
func TestCursorModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { inBubble(t, rt, checkCursors) })
}

func checkCursors(t *testing.T, rt *rapid.T) {
	limits := Limits{
		Workers: 2, MatchCache: rapid.SampledFrom([]int{2, 100}).Draw(rt, "cache"),
		ReadBytes:    rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(rt, "read bytes"),
		KeptChunks:   rapid.SampledFrom([]int{1, 10}).Draw(rt, "kept chunks"),
		PostingsEach: rapid.SampledFrom([]int{1, 3, 100}).Draw(rt, "postings each"),
		Postings:     rapid.SampledFrom([]int{5, 1000}).Draw(rt, "postings"),
	}
	m := &model{t: rt, change: func(c *Config) { c.Limits = limits }, records: make([][]modelRecord, 2)}
	m.th = newTestHub(t, len(m.records), m.change)
	for _, l := range m.th.logs {
		l.perSegment = rapid.SampledFrom([]int{0, 1, 1, 2, 4}).Draw(rt, "batches per segment")
	}
	for i := range 3 {
		c := &modelClient{id: fmt.Sprintf("c%d", i), subs: map[string]int{}, moments: map[string]Cursor{}, given: make([]log.Offset, len(m.records))}
		m.clients = append(m.clients, c)
	}
	m.th.start()
	defer func() { m.th.stop() }()
	for _, c := range m.clients {
		m.attach(c)
	}
	ops := []string{"commit", "commit", "commit", "ready", "ready", "attach", "detach", "detach", "subscribe", "subscribe", "unsubscribe", "check",
		"restart", "save", "floor", "floor", "floor stored", "crash", "notes"}
	for range rapid.IntRange(1, 60).Draw(rt, "steps") {
		c := m.clients[rapid.IntRange(0, len(m.clients)-1).Draw(rt, "client")]
		m.step(c, rapid.SampledFrom(ops).Draw(rt, "op"))
	}
	for _, c := range m.clients {
		m.attach(c)
		c.target.allow(-1)
		m.th.Ready(c.id)
	}
	m.check()
	if n := m.th.postings.Load(); n != 0 {
		rt.Fatalf("%d postings are left though everyone has caught up", n)
	}
	for _, p := range *m.th.parts.Load() {
		if len(p.lags) != 0 || p.scans != 0 {
			rt.Fatalf("%d lags, %d scans are left", len(p.lags), p.scans)
		}
	}
}

func (m *model) step(c *modelClient, op string) {
	switch op {
	case "commit":
		m.commit()
	case "ready":
		if c.target != nil {
			c.target.allow(m.drawRoom())
			m.th.Ready(c.id)
		}
	case "attach":
		m.attach(c)
	case "detach":
		// A crash may come before its record is written: it is then still stored as connected.
		if m.detach(c); rapid.Bool().Draw(m.t, "recorded") {
			m.save(c)
		}
	case "save":
		m.save(c)
	case "floor":
		m.startFloor()
	case "floor stored":
		m.finishFloor()
	case "crash":
		m.crash()
	case "notes":
		m.damageNotes()
	case "subscribe":
		m.subscribe(c)
	case "unsubscribe":
		m.unsubscribe(c)
	case "check":
		m.check()
	case "restart":
		m.restart()
	}
}
