package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

const (
	// auditDevices and auditIntervals bound the memory of an audit: about 200 bytes per device and 16 per interval.
	auditDevices   = 1_000_000
	auditIntervals = 10_000_000
	// rangesShown bounds what is printed per device; --json has all.
	rangesShown = 10
)

// auditCmd is `weir audit`.
type auditCmd struct {
	Topic    string `arg:"" help:"The topic."`
	From     string `default:"beginning" help:"beginning, an offset, a time, --from=-15m … (default ${default})."`
	Ledger   string `placeholder:"FILE" help:"A weir-sim report: every sequence number acked there must be in the topic."`
	FirstSeq int64  `default:"-1" placeholder:"N" help:"Every device begins with this number (default: 0 if the topic still holds its first record and --from is beginning, else the first number found)."`
	All      bool   `help:"Show devices without findings too, however many there are."`
}

// Run reads the topic from --from to its present end and fails if a device's numbers have a gap or, with a ledger, if
// an acked number is missing.
func (c *auditCmd) Run(g *Globals) error {
	pos, err := parsePosition("--from", c.From, time.Now())
	if err != nil {
		return err
	}
	var led *firmwaresim.Ledger
	if c.Ledger != "" {
		if led, err = firmwaresim.ReadLedger(c.Ledger); err != nil {
			return usageError{err}
		}
	}
	a := newAudit()
	whole, err := c.read(g, pos, a)
	if g.Ctx.Err() != nil { // half an audit proves nothing: not exit 0
		return failf("audit %s: interrupted after %d records", c.Topic, a.records)
	}
	if err != nil {
		return fail("audit "+c.Topic, err)
	}
	first := c.FirstSeq
	if first < 0 && whole {
		first = 0
	}
	rep := a.report(c.Topic, first, led)
	if err := rep.print(g, c.All); err != nil {
		return err
	}
	return rep.verdict()
}

// read feeds the topic to a. whole is true if that is all there ever was in it.
func (c *auditCmd) read(g *Globals, pos position, a *audit) (whole bool, err error) {
	adm, err := g.admin()
	if err != nil {
		return false, err
	}
	defer adm.Close()
	ext, err := extents(g, adm, pos, c.Topic)
	if err != nil {
		return false, err
	}
	whole = true
	var total int64
	for _, e := range ext[c.Topic] {
		total += e.end - e.at
		whole = whole && e.at == 0
	}
	bar := newProgress(g, "audit "+c.Topic, total)
	err = readTopic(g, c.Topic, ext[c.Topic], bar, a.record)
	bar.finish()
	if err == nil {
		a.sessions, err = sessionLosses(g, adm, c.Topic)
	}
	return whole, err
}

// readTopic passes every record of the extents to fn, until that fails. bar may be nil.
func readTopic(g *Globals, topic string, parts map[int32]extent, bar *progress, fn func(*kgo.Record) error) error {
	s := newScan(topic, parts)
	if s.finished() {
		return nil
	}
	cl, err := g.client(append(s.opts(true), kgo.FetchMaxPartitionBytes(4<<20), kgo.FetchMaxBytes(16<<20))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for !s.finished() {
		fetches := cl.PollFetches(g.Ctx)
		if err := pollError(g.Ctx, fetches); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if !s.seen(r) || r.Attrs.IsControl() {
				continue
			}
			if err := fn(r); err != nil {
				return err
			}
		}
		bar.add(int64(fetches.NumRecords()))
	}
	return nil
}

// audit is what is known of each device so far.
type audit struct {
	devices   map[string]*deviceAudit
	records   int64
	withoutID int64 // records that name no device or carry no sequence number
	intervals int
	sessions  []sessionLoss
}

type deviceAudit struct {
	records, duplicates, reordered int64
	seen                           firmwaresim.Ranges
	last                           map[int32]int64 // by partition: order holds only within one
}

func newAudit() *audit { return &audit{devices: make(map[string]*deviceAudit)} }

// record takes one record into account. Its device is the header mqtt.client, else the key. The error is a limit.
func (a *audit) record(r *kgo.Record) error {
	a.records++
	device := r.Key
	for _, h := range r.Headers {
		if h.Key == "mqtt.client" {
			device = h.Value
			break
		}
	}
	seq, ok := payloadSeq(r.Value)
	if !ok || len(device) == 0 {
		a.withoutID++
		return nil
	}
	d := a.devices[string(device)]
	if d == nil {
		if len(a.devices) == auditDevices {
			return failf("more than %d devices in the topic; audit a part of it with --from", auditDevices)
		}
		d = &deviceAudit{last: make(map[int32]int64, 1)}
		a.devices[string(device)] = d
	}
	d.records++
	last, known := d.last[r.Partition]
	before := d.seen.Intervals()
	if !d.seen.Add(seq) {
		d.duplicates++
	} else if known && seq < last {
		d.reordered++
	}
	if a.intervals += d.seen.Intervals() - before; a.intervals > auditIntervals {
		return failf("sequence numbers with more than %d holes; these are hardly sequences of devices: is this the right topic?", auditIntervals)
	}
	if !known || seq > last {
		d.last[r.Partition] = seq
	}
	return nil
}

// payloadSeq is the whole number seq of a JSON or CBOR map.
func payloadSeq(b []byte) (int64, bool) {
	var p struct {
		Seq *int64 `json:"seq"`
	}
	var err error
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		err = json.Unmarshal(t, &p)
	} else {
		err = cbor.Unmarshal(b, &p)
	}
	if err != nil || p.Seq == nil || *p.Seq < 0 {
		return 0, false
	}
	return *p.Seq, true
}

// auditReport is the result, and its JSON form.
type auditReport struct {
	Topic      string           `json:"topic"`
	Records    int64            `json:"records"`
	NoSequence int64            `json:"no_sequence"` // records without a device or a sequence number
	Gaps       int              `json:"gaps"`
	Missing    int64            `json:"missing"`
	Duplicates int64            `json:"duplicates"`
	Reordered  int64            `json:"reordered"`
	Ledger     *ledgerReport    `json:"ledger,omitempty"`
	Devices    []deviceAuditRow `json:"devices"`
	Sessions   []sessionLoss    `json:"sessions,omitempty"` // MQTT sessions that retention took messages from
}

type ledgerReport struct {
	Acked   int64 `json:"acked"`
	Missing int64 `json:"missing"` // acked but not in the topic
}

type deviceAuditRow struct {
	Device       string              `json:"device"`
	Records      int64               `json:"records"`
	First        int64               `json:"first"` // -1: none
	Last         int64               `json:"last"`
	Missing      int64               `json:"missing"`
	Duplicates   int64               `json:"duplicates"`
	Reordered    int64               `json:"reordered"`
	Gaps         []firmwaresim.Range `json:"gaps"` // half-open
	AckedMissing []firmwaresim.Range `json:"acked_missing,omitempty"`
}

func (r *deviceAuditRow) clean() bool {
	return len(r.Gaps) == 0 && len(r.AckedMissing) == 0 && r.Duplicates == 0 && r.Reordered == 0
}

// report sums up. first is the number every device begins with, or -1 for the first one found. With a ledger, devices
// that it has and the topic has not are reported too.
func (a *audit) report(topic string, first int64, led *firmwaresim.Ledger) *auditReport {
	rep := &auditReport{Topic: topic, Records: a.records, NoSequence: a.withoutID, Devices: []deviceAuditRow{}, Sessions: a.sessions}
	acked := make(map[string]*firmwaresim.Ranges)
	if led != nil {
		rep.Ledger = &ledgerReport{}
		for i := range led.Devices {
			d := &led.Devices[i]
			acked[d.Device] = &d.AckedSeqs
			rep.Ledger.Acked += d.Acked
			if a.devices[d.Device] == nil && d.Acked > 0 {
				a.devices[d.Device] = &deviceAudit{}
			}
		}
	}
	for _, name := range sortedKeys(a.devices) {
		d := a.devices[name]
		row := deviceAuditRow{Device: name, Records: d.records, First: -1, Last: -1, Duplicates: d.duplicates, Reordered: d.reordered, Gaps: []firmwaresim.Range{}}
		if d.records > 0 {
			lo, next := d.seen.Bounds()
			row.First, row.Last = lo, next-1
			from := first
			if from < 0 {
				from = lo
			}
			row.Gaps = append(row.Gaps, d.seen.Gaps(from)...)
		}
		if want := acked[name]; want != nil {
			row.AckedMissing = want.Minus(&d.seen)
			rep.Ledger.Missing += count(row.AckedMissing)
		}
		row.Missing = count(row.Gaps)
		rep.Gaps += len(row.Gaps)
		rep.Missing += row.Missing
		rep.Duplicates += row.Duplicates
		rep.Reordered += row.Reordered
		rep.Devices = append(rep.Devices, row)
	}
	return rep
}

func count(rs []firmwaresim.Range) int64 {
	var n int64
	for _, r := range rs {
		n += r.Next - r.First
	}
	return n
}

// verdict is the exit: gaps and lost acks fail; duplicates and reorderings are what at-least-once allows.
func (rep *auditReport) verdict() error {
	var faults []string
	if rep.Gaps > 0 {
		faults = append(faults, fmt.Sprintf("%d sequence numbers missing in %d gaps", rep.Missing, rep.Gaps))
	}
	if rep.Ledger != nil && rep.Ledger.Missing > 0 {
		faults = append(faults, fmt.Sprintf("%d acked records are not in the topic", rep.Ledger.Missing))
	}
	if rep.Records == 0 && (rep.Ledger == nil || rep.Ledger.Acked == 0) {
		return nil // an empty topic has no gaps
	}
	if len(faults) == 0 && len(rep.Devices) == 0 {
		return failf("audit %s: none of %d records has both a device and a whole number seq; is this the right topic?", rep.Topic, rep.Records)
	}
	if len(faults) == 0 {
		return nil
	}
	return failure{errors.New("audit " + rep.Topic + ": " + strings.Join(faults, "; ")), "the table says which; --json has every range"}
}

func (rep *auditReport) print(g *Globals, all bool) error {
	if g.JSON {
		return g.emit(rep, nil)
	}
	const fewDevices = 50
	t := newTable("DEVICE", "RECORDS", "FIRST", "LAST", "MISSING", "DUPLICATES", "REORDERED", "GAPS")
	clean := 0
	for _, d := range rep.Devices {
		if d.clean() && !all && len(rep.Devices) > fewDevices {
			clean++
			continue
		}
		gaps := "-"
		if len(d.Gaps) > 0 {
			gaps = ranges(d.Gaps)
		}
		if len(d.AckedMissing) > 0 {
			gaps += " (acked: " + ranges(d.AckedMissing) + ")"
		}
		t.add(d.Device, d.Records, dash(d.First), dash(d.Last), d.Missing, d.Duplicates, d.Reordered, gaps)
	}
	if len(t.rows) > 0 {
		if err := t.write(g.Out); err != nil {
			return err
		}
	}
	if clean > 0 {
		fmt.Fprintf(g.Out, "%d devices without findings (--all shows them)\n", clean)
	}
	fmt.Fprintf(g.Out, "%d records of %d devices: %d missing in %d gaps, %d duplicates, %d reordered", rep.Records, len(rep.Devices), rep.Missing, rep.Gaps, rep.Duplicates, rep.Reordered)
	if rep.NoSequence > 0 {
		fmt.Fprintf(g.Out, ", %d without device or seq", rep.NoSequence)
	}
	fmt.Fprintln(g.Out)
	if rep.Ledger != nil {
		fmt.Fprintf(g.Out, "ledger: %d acked, %d of them missing\n", rep.Ledger.Acked, rep.Ledger.Missing)
	}
	return rep.printLosses(g)
}

// ranges lists the first few.
func ranges(rs []firmwaresim.Range) string {
	var s []string
	for _, r := range rs[:min(len(rs), rangesShown)] {
		s = append(s, r.String())
	}
	if len(rs) > rangesShown {
		s = append(s, fmt.Sprintf("… %d more", len(rs)-rangesShown))
	}
	return strings.Join(s, ",")
}
