package model

import (
	"fmt"
	"math/bits"
	"strings"
)

const (
	maxN    = 3 // brokers
	maxLog  = 4 // offsets
	maxHist = 4 // newest metadata entries; the slowest broker that runs is at most maxHist-1 behind
	maxNet  = 2 // messages that are late at one time
	none    = maxN
)

// image is the committed metadata of the partition after one entry.
type image struct {
	le, pe    uint8
	leader    uint8 // none: no leader
	isr, elr  uint8 // sets of brokers, one bit each
	replicas  uint8
	adding    uint8 // while a reassignment runs
	removing  uint8
	minInsync uint8
	be        [maxN]uint8
	fenced    uint8
	stopping  uint8 // E8, E9: takes no leadership and no place in the ISR
	restarted uint8 // E5: uncleanly, and not yet seen to have everything
}

// effective is min.insync as it binds (H4).
func (im *image) effective() int {
	return min(int(im.minInsync), bits.OnesCount8(im.replicas&^im.removing))
}

func (im *image) alive(i uint8) bool { return (im.fenced|im.stopping)&bit(i) == 0 }

// broker is one broker: what its disk holds, what its process knows.
type broker struct {
	up    uint8
	be    uint8 // of the running process; on disk, the nonce of the last registration (E5)
	clean uint8 // the clean marker on disk: BE+1 of the process that wrote it (E8)
	mark  uint8 // and the log end then, for the journal's sequence number
	lag   uint8 // entries of metadata not applied yet

	log   [maxLog]uint8 // epoch<<4 | value; 0 below start and from leo on
	start uint8
	leo   uint8
	dleo  uint8 // what it believes to be durable
	hw    uint8
	// ep is the newest epoch entry (A3) at or below leo, dep what is durable of it.
	ep, dep uint8

	lease  uint8
	behind uint8 // entries committed since the controller last accepted a renewal

	// Leader, in this term.
	leso   uint8
	ack    [maxN]uint8 // DLEO+1 that each follower has told; 0: it has not fetched in this term
	ackBE  [maxN]uint8
	pend   uint8 // proposed ISR without an answer
	pendPE uint8

	trusts uint8 // only where T2 is off: the leader that this follower was checked against last, +1
}

// image kept of what a lying disk really holds.
type disk struct {
	who   uint8 // broker+1
	log   [maxLog]uint8
	start uint8
	leo   uint8
	ep    uint8
	be    uint8
	clean uint8
	mark  uint8
}

type msgKind uint8

const (
	fetchRequest msgKind = iota + 1
	fetchAnswer
	alterISR
)

// msg is a message that is late: others overtake it, and its sender may be gone when it arrives.
type msg struct {
	kind     msgKind
	from, to uint8
	be, le   uint8
	// fetch request
	dleo, leo, epoch uint8
	entry, trusts    uint8
	// fetch answer; leo and entry are readOffset and lastEpoch of the request, epoch the diverging epoch
	diverged, reset uint8
	end             uint8
	record, hw      uint8
	start, leso     uint8
	// AlterPartition
	pe, isr, cleared uint8
	bes              [maxN]uint8
}

// What may still happen.
const (
	appends   = iota
	crashes   // of one broker, process or power
	siteCuts  // power of all brokers at once
	fences    // by the controller
	lies      // successful syncs that did nothing, all by one broker
	late      // messages that become late
	copies    // late messages that arrive and stay
	handovers // preferred leader
	stops     // clean shutdowns
	stalls
	retention // log start moved up by a leader
	configs   // min.insync changed
	reassigns
	backups  // of one disk
	lapses   // of a lease
	changes  // any further ISR proposal
	earlies  // fences by a new controller, before the lease has run out
	numLimit // number of limits
)

type state struct {
	hist    [maxHist]image // [0] is the newest
	brokers [maxN]broker
	net     [maxNet]msg
	real    disk // what the disk that lied holds, if it is not what its broker believes
	liar    uint8
	backup  disk
	left    [numLimit]uint8
	values  uint8 // records appended so far
	// promised is the record at each offset that a leader had below its HW: acked or open to readers.
	promised [maxLog]uint8
	gone     uint8 // below this, retention took records
	reader   uint8 // next offset of the consumer
	bad      fault
	// alone: the broker whose disk lies became the only one that counts while it still had everything (min.insync 1, or everybody
	// else is gone). Nothing is promised from there on.
	alone uint8
}

type fault uint8

const (
	ok fault = iota
	badTwice
	badT4
	badRange
	badStale
	badHW
	badLE
)

var faults = [...]string{
	badTwice: "two records were committed at one offset",
	badT4:    "a follower is told to cut below its own HW, without an unclean election (T4)",
	badRange: "a consumer is told OFFSET_OUT_OF_RANGE at a position that it reached by reading (R4)",
	badStale: "a deposed leader renewed its lease and serves reads (R2)",
	badHW:    "the HW of a leader fell within its term (H5)",
	badLE:    "the leader epoch did not grow (E2)",
}

func bit(i uint8) uint8          { return 1 << i }
func epochOf(record uint8) uint8 { return record >> 4 }

func (s *state) view(i uint8) *image { return &s.hist[s.brokers[i].lag] }

// leads: i runs and takes itself for the leader.
func (s *state) leads(i uint8) bool { return s.brokers[i].up == 1 && s.view(i).leader == i }

// commit appends a metadata entry. It is refused when a broker that runs would fall behind further than the model remembers.
func (s *state) commit(im image) bool {
	old := &s.hist[0]
	if im.le < old.le || im.leader != none && im.leader != old.leader && im.le == old.le {
		s.bad = badLE
	}
	im.restarted &= im.isr | im.elr
	for i := range s.brokers {
		if s.brokers[i].up == 1 && s.brokers[i].lag+1 >= maxHist {
			return false
		}
	}
	for i := range s.brokers {
		b := &s.brokers[i]
		if b.up == 0 {
			continue
		}
		b.lag++
		if b.lease == 1 {
			b.behind = min(b.behind+1, maxHist)
		}
	}
	copy(s.hist[1:], s.hist[:maxHist-1])
	s.hist[0] = im
	s.doubt()
	s.forget()
	return true
}

// forget drops entries that nobody needs.
func (s *state) forget() {
	var most uint8
	for i := range s.brokers {
		if s.brokers[i].up == 1 {
			most = max(most, s.brokers[i].lag)
		}
	}
	for k := most + 1; k < maxHist; k++ {
		s.hist[k] = image{}
	}
}

func (s *state) spend(limit int) bool {
	if s.left[limit] == 0 {
		return false
	}
	s.left[limit]--
	return true
}

// --- for traces

func set(m uint8) string {
	var b strings.Builder
	for i := uint8(0); i < maxN; i++ {
		if m&bit(i) != 0 {
			b.WriteByte('A' + i)
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

func name(i uint8) string {
	if i >= maxN {
		return "nobody"
	}
	return string('A' + rune(i))
}

func (s *state) show(n uint8) string {
	var b strings.Builder
	im := &s.hist[0]
	leader := "-"
	if im.leader != none {
		leader = name(im.leader)
	}
	fmt.Fprintf(&b, "LE%d PE%d %s isr=%s", im.le, im.pe, leader, set(im.isr))
	for _, p := range []struct {
		name string
		set  uint8
	}{{"elr", im.elr}, {"restarted", im.restarted}, {"fenced", im.fenced}, {"stopping", im.stopping}, {"adding", im.adding}, {"removing", im.removing}} {
		if p.set != 0 {
			fmt.Fprintf(&b, " %s=%s", p.name, set(p.set))
		}
	}
	fmt.Fprintf(&b, " min=%d", im.minInsync)
	for i := range n {
		k := &s.brokers[i]
		fmt.Fprintf(&b, " | %s", name(i))
		if k.up == 0 {
			b.WriteString(" down")
		} else if k.lag > 0 {
			fmt.Fprintf(&b, " at LE%d PE%d", s.view(i).le, s.view(i).pe)
		}
		b.WriteString(" [")
		for o := k.start; o < k.leo; o++ {
			if o > k.start {
				b.WriteByte(' ')
			}
			if o == k.dleo {
				b.WriteString("/ ")
			}
			fmt.Fprintf(&b, "%d%c", epochOf(k.log[o]), 'p'+rune(k.log[o]&15)-1)
		}
		b.WriteByte(']')
		if k.start > 0 {
			fmt.Fprintf(&b, " from %d", k.start)
		}
		if k.up == 1 {
			fmt.Fprintf(&b, " hw=%d", k.hw)
		}
		if k.lease == 1 {
			b.WriteString(" lease")
		}
		if s.leads(i) && k.pend != 0 {
			fmt.Fprintf(&b, " pend=%s", set(k.pend))
		}
	}
	if s.reader > 0 {
		fmt.Fprintf(&b, " | read to %d", s.reader)
	}
	return b.String()
}
