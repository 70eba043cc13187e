package group

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite what the scripts in testdata expect")

// TestScripts plays testdata/*.txt. A script is commands, each followed by
// `----`, what it printed and an empty line; after each command the group must pass Check.
//
//	config delay=300ms retention=24h max=3      first, if at all
//	join new=A [id=] [instance=] [known] [skip] [session=10s] [rebalance=30s] [type=consumer] [protocols=range:t+u,rr:t]
//	sync id=A gen=1 [instance=] [protocol=] [A=x B=y]
//	heartbeat id=A gen=1 [instance=]
//	leave A B i:instance
//	commit id=A gen=1 t/0=5 ...   (no id and gen: a consumer that assigns itself)
//	fetch                          offsets
//	forget t                       removal of a topic's offsets on request
//	tick 300ms                     moves the clock and calls Tick
//	expire                         looks for expired offsets
//	remove                         deletes the group
//	hold                           from now on stores and writes stay unanswered,
//	stored [fail]                  until the eldest store is reported so,
//	committed [fail]               or the eldest write
//	restart                        what a new process makes of what was stored
//	describe
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playFile(t, file) })
	}
}

func playFile(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript()
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" || strings.HasPrefix(line, "#") {
			out.WriteString(line + "\n")
			continue
		}
		var want []string
		if i+1 < len(lines) && lines[i+1] == "----" {
			for i += 2; i < len(lines) && lines[i] != ""; i++ {
				want = append(want, lines[i])
			}
		} else if !*update {
			t.Fatalf("%s: %q has no expectation", file, line)
		}
		got := s.run(line)
		if err := s.g.Check(); err != nil {
			t.Fatalf("%s: after %q: %v", file, line, err)
		}
		out.WriteString(line + "\n----\n")
		for _, l := range got {
			out.WriteString(l + "\n")
		}
		out.WriteString("\n")
		if !*update && !slices.Equal(got, want) {
			t.Errorf("%s: %s\n got:\n\t%s\n want:\n\t%s", file, line, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

type script struct {
	cfg    Config
	g      *Group
	start  time.Time
	now    time.Time
	ticket Ticket
	hold   bool
	stores []Store
	writes []Write
	out    []string
	last   string

	// What the table holds.
	snapshot *Snapshot
	offsets  map[TopicPartition]Offset
}

func newScript() *script {
	s := &script{cfg: Config{}.Defaults(), offsets: map[TopicPartition]Offset{}}
	s.start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s.now = s.start
	s.g = New("g", &s.cfg, s.now)
	s.last = s.state()
	return s
}

// run does one command and returns what it printed: effects, then the state if
// it changed.
func (s *script) run(line string) []string {
	s.out = nil
	words := strings.Fields(line)
	kv := map[string]string{}
	var bare []string
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			kv[k] = v
		} else {
			bare = append(bare, w)
		}
	}
	switch words[0] {
	case "config":
		s.configure(kv)
	case "join":
		s.join(kv, bare)
	case "sync":
		s.sync(kv)
	case "heartbeat":
		s.print("%v", s.g.Heartbeat(kv["id"], kv["instance"], s.gen(kv), s.now))
	case "leave":
		var rs []LeaveRequest
		for _, w := range bare {
			if instance, ok := strings.CutPrefix(w, "i:"); ok {
				rs = append(rs, LeaveRequest{Instance: instance})
			} else {
				rs = append(rs, LeaveRequest{MemberID: w})
			}
		}
		faults, fx := s.g.Leave(rs, s.now)
		s.print("%v", faults)
		s.effects(fx)
	case "commit":
		s.commit(kv)
	case "fetch":
		for _, at := range s.g.Offsets() {
			o, _ := s.g.Offset(at)
			s.print("%s/%d=%d", at.Topic, at.Partition, o.Offset)
		}
	case "forget":
		s.forget(bare[0])
	case "tick":
		s.now = s.now.Add(duration(bare[0]))
		s.effects(s.g.Tick(s.now))
	case "expire":
		s.effects(s.g.Expire(s.now))
	case "remove":
		f, fx := s.g.Remove(s.now)
		s.print("%v", f)
		s.effects(fx)
	case "hold":
		s.hold = true
	case "stored":
		st := s.stores[0]
		s.stores = s.stores[1:]
		s.stored(st, !slices.Contains(bare, "fail"))
	case "committed":
		w := s.writes[0]
		s.writes = s.writes[1:]
		s.committed(w, !slices.Contains(bare, "fail"))
	case "restart":
		s.restart()
	case "describe":
		s.describe()
	default:
		s.print("unknown command")
	}
	if st := s.state(); st != s.last {
		s.out = append(s.out, "= "+st)
		s.last = st
	}
	return s.out
}

func (s *script) print(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf(format, args...))
}

func (s *script) configure(kv map[string]string) {
	for k, v := range kv {
		switch k {
		case "delay":
			s.cfg.InitialRebalanceDelay = duration(v)
		case "retention":
			s.cfg.OffsetsRetention = duration(v)
		case "max":
			s.cfg.MaxMembers, _ = strconv.Atoi(v)
		case "bytes":
			s.cfg.MaxGroupBytes, _ = strconv.Atoi(v)
		case "metadata":
			s.cfg.MaxOffsetMetadataBytes, _ = strconv.Atoi(v)
		default:
			s.print("unknown setting %s", k)
		}
	}
}

func duration(v string) time.Duration {
	d, err := time.ParseDuration(v)
	if err != nil {
		panic("BUG: script: " + err.Error())
	}
	return d
}

func (s *script) gen(kv map[string]string) int32 {
	if v, ok := kv["gen"]; ok {
		n, _ := strconv.ParseInt(v, 10, 32)
		return int32(n)
	}
	return -1
}

func or(v, otherwise string) string {
	if v == "" {
		return otherwise
	}
	return v
}

func (s *script) join(kv map[string]string, bare []string) {
	s.ticket++
	r := &JoinRequest{
		Ticket: s.ticket, MemberID: kv["id"], Instance: kv["instance"], NewMemberID: kv["new"],
		NeedsKnownID: slices.Contains(bare, "known"), CanSkip: slices.Contains(bare, "skip"),
		ClientID: "c", Host: "h",
		Session: duration(or(kv["session"], "10s")), Rebalance: duration(or(kv["rebalance"], "30s")),
		ProtocolType: or(kv["type"], "consumer"),
	}
	for _, p := range strings.Split(or(kv["protocols"], "range:t"), ",") {
		name, topics, _ := strings.Cut(p, ":")
		r.Protocols = append(r.Protocols, Protocol{name, subscribe(strings.Split(topics, "+")...)})
	}
	s.effects(s.g.Join(r, s.now))
}

// subscribe encodes a consumer's subscription.
func subscribe(topics ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 1}, uint32(len(topics)))
	for _, t := range topics {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(t))), t...)
	}
	return binary.BigEndian.AppendUint32(b, 0xffffffff)
}

func (s *script) sync(kv map[string]string) {
	s.ticket++
	r := &SyncRequest{
		Ticket: s.ticket, MemberID: kv["id"], Instance: kv["instance"], Generation: s.gen(kv),
		Protocol: kv["protocol"], ProtocolType: kv["type"], Assignments: map[string][]byte{},
	}
	for k, v := range kv {
		r.Assignments[k] = []byte(v)
	}
	s.effects(s.g.Sync(r, s.now))
}

func (s *script) commit(kv map[string]string) {
	f := s.g.MayCommit(CommitRequest{MemberID: kv["id"], Instance: kv["instance"], Generation: s.gen(kv)}, s.now)
	if f != OK {
		s.print("%v", f)
		return
	}
	keys := []string{}
	for k := range kv {
		if strings.Contains(k, "/") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		topic, part, _ := strings.Cut(k, "/")
		p, _ := strconv.Atoi(part)
		o, _ := strconv.ParseInt(kv[k], 10, 64)
		off := Offset{Offset: o, LeaderEpoch: -1, Metadata: kv["metadata"], ExpireTime: -1}
		if v := kv["expires"]; v != "" {
			off.ExpireTime = s.now.Add(duration(v)).UnixMilli()
		}
		w, f := s.g.Put(TopicPartition{topic, int32(p)}, off, s.now)
		if f != OK {
			s.print("%s %v", k, f)
			continue
		}
		s.effects(Effects{Writes: []Write{w}})
	}
}

func (s *script) forget(topic string) {
	if f := s.g.MayForget(topic); f != OK {
		s.print("%v", f)
		return
	}
	for _, at := range s.g.Offsets() {
		if at.Topic == topic {
			w, f := s.g.Forget(at)
			s.print("%v", f)
			s.effects(Effects{Writes: []Write{w}})
		}
	}
}

func (s *script) effects(fx Effects) {
	for _, w := range fx.Writes {
		if w.Forget {
			s.print("write %s/%d gone", w.At.Topic, w.At.Partition)
		} else {
			s.print("write %s/%d=%d", w.At.Topic, w.At.Partition, w.Offset.Offset)
		}
		if s.hold {
			s.writes = append(s.writes, w)
		} else {
			s.committed(w, true)
		}
	}
	for _, st := range fx.Stores {
		s.print("store %s", snapshotText(st.Snapshot))
	}
	for _, a := range fx.Answers {
		s.print("#%d %s", a.Ticket, answerText(&a))
	}
	for _, st := range fx.Stores {
		if s.hold {
			s.stores = append(s.stores, st)
		} else {
			s.stored(st, true)
		}
	}
}

func (s *script) stored(st Store, ok bool) {
	if ok {
		s.snapshot = st.Snapshot
	}
	s.effects(s.g.Stored(st.Seq, ok, s.now))
}

func (s *script) committed(w Write, ok bool) {
	if ok && w.Forget {
		delete(s.offsets, w.At)
	} else if ok {
		s.offsets[w.At] = w.Offset
	}
	s.g.Committed(w, ok)
}

func (s *script) restart() {
	s.stores, s.writes = nil, nil
	if s.snapshot != nil {
		s.g = Restore("g", &s.cfg, s.snapshot, s.now)
	} else {
		s.g = New("g", &s.cfg, s.now)
	}
	for at, o := range s.offsets {
		s.g.RestoreOffset(at, o)
	}
}

func (s *script) describe() {
	d := s.g.Describe()
	s.print("%v type=%s protocol=%s", d.State, d.ProtocolType, d.Protocol)
	for _, m := range d.Members {
		s.print("%s instance=%s client=%s host=%s metadata=%dB assignment=%q", m.ID, m.Instance, m.ClientID, m.Host, len(m.Metadata), m.Assignment)
	}
}

// state is one line: what the group is, its members (leader starred), and when
// it wants to be woken.
func (s *script) state() string {
	g := s.g
	if g.Gone() && g.generation == 0 {
		return "gone"
	}
	var ms []string
	for _, m := range g.order {
		text := m.id
		if m.id == g.leader {
			text += "*"
		}
		if m.instance != "" {
			text += "(" + m.instance + ")"
		}
		if m.join != 0 {
			text += "/joins"
		}
		if m.sync != 0 {
			text += "/syncs"
		}
		ms = append(ms, text)
	}
	line := fmt.Sprintf("%v gen=%d [%s]", g.state, g.generation, strings.Join(ms, " "))
	if len(g.pending) > 0 {
		line += fmt.Sprintf(" ids=%d", len(g.pending))
	}
	if g.Gone() {
		line += " gone"
	}
	if w := g.Next(); !w.IsZero() {
		line += fmt.Sprintf(" wake=%v", w.Sub(s.start))
	}
	return line
}

func snapshotText(sn *Snapshot) string {
	if sn == nil {
		return "nothing"
	}
	text := fmt.Sprintf("gen=%d protocol=%s", sn.Generation, sn.Protocol)
	for _, m := range sn.Members {
		text += fmt.Sprintf(" %s=%s", m.ID, m.Assignment)
	}
	return text
}

func answerText(a *Answer) string {
	switch {
	case a.Fault != OK:
		return fmt.Sprintf("%s: %v", a.MemberID, a.Fault)
	case a.Leader == "": // to a sync
		return fmt.Sprintf("%s: gen=%d assignment=%s", a.MemberID, a.Generation, a.Assignment)
	}
	text := fmt.Sprintf("%s: gen=%d %s leader=%s", a.MemberID, a.Generation, a.Protocol, a.Leader)
	if a.SkipAssignment {
		text += " skip"
	}
	if a.Members != nil {
		text += " of"
		for _, m := range a.Members {
			text += " " + m.ID
		}
	}
	return text
}
