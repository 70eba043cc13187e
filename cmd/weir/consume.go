package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consumeCmd is `weir consume`.
type consumeCmd struct {
	Topic     string `arg:"" help:"The topic."`
	Group     string `placeholder:"G" help:"Read as a member of a consumer group and commit what was printed."`
	From      string `default:"beginning" help:"beginning, end, an offset, a time, --from=-100 (the last 100 of each partition) or --from=-15m (default ${default}). With --group it counts where the group has no offset yet."`
	Count     int64  `placeholder:"N" help:"Stop after N records."`
	UntilEnd  bool   `help:"Stop at what is the end now."`
	Partition []int  `placeholder:"P" help:"Read these partitions only."`
	KeySep    string `placeholder:"SEP" help:"Print KEY SEP VALUE."`
}

// Run prints records until it is interrupted, --count is reached or --until-end is met.
func (c *consumeCmd) Run(g *Globals) error {
	pos, err := parsePosition("--from", c.From, time.Now())
	if err != nil {
		return err
	}
	if c.Count < 0 {
		return usagef("--count %d: want 1 or more", c.Count)
	}
	if c.Group != "" && (c.UntilEnd || len(c.Partition) > 0) {
		return usagef("--group does not go with --until-end or --partition: the group shares out partitions by itself")
	}
	if c.Group != "" {
		return fail("consume "+c.Topic, c.inGroup(g, pos))
	}
	return fail("consume "+c.Topic, c.direct(g, pos))
}

func (c *consumeCmd) direct(g *Globals, pos position) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	ext, err := extents(g, adm, pos, c.Topic) // it waits for leaders, for requestTimeout
	adm.Close()
	if err != nil {
		return err
	}
	parts := ext[c.Topic]
	if len(c.Partition) > 0 {
		only := make(map[int32]extent)
		for _, p := range c.Partition {
			e, ok := parts[int32(p)]
			if !ok {
				return usagef("--partition %d: the topic has partitions 0 to %d", p, len(parts)-1)
			}
			only[int32(p)] = e
		}
		parts = only
	}
	s := newScan(c.Topic, parts)
	if c.UntilEnd && s.finished() {
		return nil
	}
	dials := make(dialWatch, 1)
	cl, err := g.client(append(s.opts(c.UntilEnd), kgo.WithHooks(dials))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	w := &waits{g: g, what: "consume " + c.Topic, ping: cl.Ping}
	ctx, end := context.WithCancelCause(g.Ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer end(nil)
	watching.Go(func() { dials.run(ctx, w, end) })
	out := newRecordWriter(g, c.KeySep)
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil && g.Ctx.Err() == nil {
			return context.Cause(ctx) // no node is there
		}
		if err := pollError(ctx, fetches); !w.over(err) {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if c.UntilEnd && !s.seen(r) || r.Attrs.IsControl() {
				continue
			}
			if err := out.write(r); err != nil {
				return err
			}
			if out.n == c.Count {
				return out.flush()
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
		if c.UntilEnd && s.finished() {
			return nil
		}
	}
}

// scan reads partitions from where an extent stands to its end and no further.
type scan struct {
	topic string
	parts map[int32]extent
}

func newScan(topic string, parts map[int32]extent) *scan {
	s := &scan{topic, make(map[int32]extent, len(parts))}
	for p, e := range parts {
		s.parts[p] = e
	}
	return s
}

// opts make a client that reads what the scan needs. A bounded scan reads to the high watermark, whatever transactions are open or were aborted
// below; control records are wanted for it, since one of them may be the last. Others see committed records only.
func (s *scan) opts(bounded bool) []kgo.Opt {
	at := make(map[int32]kgo.Offset)
	for p, e := range s.parts {
		if !bounded || e.at < e.end {
			at[p] = kgo.NewOffset().At(e.at)
		}
	}
	opts := []kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{s.topic: at}), kgo.FetchMaxWait(500 * time.Millisecond)}
	if bounded {
		return append(opts, kgo.KeepControlRecords())
	}
	return append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

// seen notes a record and reports whether it belongs to the scan.
func (s *scan) seen(r *kgo.Record) bool {
	e := s.parts[r.Partition]
	if r.Offset >= e.end {
		e.at = e.end
		s.parts[r.Partition] = e
		return false
	}
	e.at = r.Offset + 1
	s.parts[r.Partition] = e
	return true
}

func (s *scan) finished() bool {
	for _, e := range s.parts {
		if e.at < e.end {
			return false
		}
	}
	return true
}

// pollError is what a poll ends with: an interrupt as the context's error, else the first error of a partition that does
// not pass by itself. The client asks again after those that do.
func pollError(ctx context.Context, fetches kgo.Fetches) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var first error
	fetches.EachError(func(topic string, partition int32, err error) {
		switch {
		case first != nil:
		case errors.Is(err, kerr.CorruptMessage): // the protocol calls it retriable; the disk will not mend it
			first = failure{fmt.Errorf("%s/%d: the next batch is damaged on the node's disk: %w", topic, partition, err), "see `weir inspect data DIR` there"}
		case !kerr.IsRetriable(err):
			first = err
		}
	})
	return first
}

func (c *consumeCmd) inGroup(g *Globals, pos position) error {
	reset := kgo.NewOffset()
	switch pos.kind {
	case atBeginning:
		reset = reset.AtStart()
	case atEnd:
		reset = reset.AtEnd()
	case atOffset:
		reset = reset.At(pos.offset)
	case beforeEnd:
		reset = reset.AtEnd().Relative(-pos.offset)
	case atTime:
		reset = reset.AfterMilli(pos.time.UnixMilli())
	}
	cl, err := g.client(kgo.ConsumerGroup(c.Group), kgo.ConsumeTopics(c.Topic), kgo.ConsumeResetOffset(reset),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.AutoCommitMarks(), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	if _, err := extents(g, kadm.NewClient(cl), pos, c.Topic); err != nil { // the group would wait for an unknown topic for ever
		return err
	}
	out, w := newRecordWriter(g, c.KeySep), &waits{g: g, what: "consume " + c.Topic}
	commit := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(g.Ctx), dialTimeout)
		defer cancel()
		return cl.CommitMarkedOffsets(ctx)
	}
	for {
		fetches := cl.PollFetches(g.Ctx)
		if err := pollError(g.Ctx, fetches); !w.over(err) { // a member outlives all nodes: what it has printed is committed when they are back
			if e := commit(); e != nil {
				return e
			}
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if err := out.write(r); err != nil {
				return err
			}
			cl.MarkCommitRecords(r)
			if out.n == c.Count {
				break
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
		if c.Count > 0 && out.n >= c.Count {
			return commit()
		}
		cl.AllowRebalance()
	}
}

// recordWriter prints records: the value and a newline, or a JSON object per line.
type recordWriter struct {
	w      *bufio.Writer
	json   *json.Encoder
	keySep string
	n      int64
}

func newRecordWriter(g *Globals, keySep string) *recordWriter {
	w := &recordWriter{w: bufio.NewWriterSize(g.Out, 64<<10), keySep: keySep}
	if g.JSON {
		w.json = json.NewEncoder(w.w)
		w.json.SetEscapeHTML(false)
	}
	return w
}

// recordJSON is a record under --json. Bytes that are not UTF-8 come as base64 in the field of the other name; a null
// key or value is null.
type recordJSON struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Timestamp   int64        `json:"timestamp"` // ms
	Key         *string      `json:"key"`
	KeyBase64   []byte       `json:"key_base64,omitempty"`
	Value       *string      `json:"value"`
	ValueBase64 []byte       `json:"value_base64,omitempty"`
	Headers     []headerJSON `json:"headers"`
}

type headerJSON struct {
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func textOrBytes(b []byte) (*string, []byte) {
	if b == nil {
		return nil, nil
	}
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

func (w *recordWriter) write(r *kgo.Record) error {
	w.n++
	if w.json != nil {
		j := recordJSON{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Headers: []headerJSON{}}
		j.Key, j.KeyBase64 = textOrBytes(r.Key)
		j.Value, j.ValueBase64 = textOrBytes(r.Value)
		for _, h := range r.Headers {
			hj := headerJSON{Key: h.Key}
			hj.Value, hj.ValueBase64 = textOrBytes(h.Value)
			j.Headers = append(j.Headers, hj)
		}
		return w.json.Encode(j)
	}
	if w.keySep != "" {
		w.w.Write(r.Key)
		w.w.WriteString(w.keySep)
	}
	w.w.Write(r.Value)
	return w.w.WriteByte('\n') // a bufio.Writer keeps its first error
}

func (w *recordWriter) flush() error { return w.w.Flush() }
