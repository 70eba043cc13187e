package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// maxLine bounds one input line: no broker takes records near it.
const maxLine = 64 << 20

// produceTimeout is how long a record may wait for its ack.
const produceTimeout = 30 * time.Second

// produceCmd is `weir produce`.
type produceCmd struct {
	Topic       string            `arg:"" help:"The topic."`
	KeySep      string            `placeholder:"SEP" help:"Each line is KEY SEP VALUE; without it the whole line is the value."`
	Header      map[string]string `placeholder:"K=V" mapsep:"none" help:"Header on every record; repeatable."`
	Partition   int32             `default:"-1" help:"Produce to this partition only (default: by key)."`
	Compression string            `default:"none" enum:"none,gzip,snappy,lz4,zstd" help:"none, gzip, snappy, lz4 or zstd (default ${default})."`
}

// Run produces stdin, one record per line, with acks=all. It returns when every record is acked, or with the first
// error; the lines before the failing one may or may not be stored.
func (c *produceCmd) Run(g *Globals) error {
	largest := int32(usualBatch)
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(c.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordDeliveryTimeout(produceTimeout),
		kgo.ProducerBatchMaxBytesFn(func(string) int32 { return largest }),
		kgo.ProducerBatchCompression(map[string]kgo.CompressionCodec{
			"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
			"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}[c.Compression]),
	}
	if c.Partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	cl, err := g.client(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	largest = largestBatch(g.Ctx, kadm.NewClient(cl), c.Topic) // the first record is the first to ask
	var headers []kgo.RecordHeader
	for _, k := range sortedKeys(c.Header) {
		headers = append(headers, kgo.RecordHeader{Key: k, Value: []byte(c.Header[k])})
	}

	// An interrupt ends the reading; what was read is still delivered.
	reading, stop := context.WithCancelCause(g.Ctx)
	defer stop(nil)
	delivering := context.WithoutCancel(g.Ctx)
	var acked atomic.Int64
	var once sync.Once
	var refused error
	done := func(_ *kgo.Record, err error) {
		if err == nil {
			acked.Add(1)
			return
		}
		once.Do(func() { refused = err; stop(err) })
	}
	readErr := readLines(reading, g.In, func(n int, line []byte) error {
		r := &kgo.Record{Value: line, Partition: c.Partition, Headers: headers}
		if c.KeySep != "" {
			key, value, ok := bytes.Cut(line, []byte(c.KeySep))
			if !ok {
				return failf("line %d has no separator %q; leave --key-sep out for records without keys", n, c.KeySep)
			}
			r.Key, r.Value = key, value
		}
		cl.Produce(delivering, r, done)
		return nil
	})
	flushErr := cl.Flush(delivering)
	once.Do(func() {}) // refused is settled from here on
	for _, err := range []error{refused, flushErr, readErr} {
		if err != nil {
			return fail(fmt.Sprintf("produce to %s after %d acked records", c.Topic, acked.Load()), err)
		}
	}
	if g.JSON {
		return g.emit(map[string]any{"topic": c.Topic, "records": acked.Load()}, nil)
	}
	return nil
}

// usualBatch is what kgo fills a batch to unless told otherwise, below what Kafka takes unless told otherwise.
const usualBatch = 1000012

// largestBatch is what the topic takes; usualBatch where that cannot be asked.
func largestBatch(ctx context.Context, cl *kadm.Client, topic string) int32 {
	found, err := cl.DescribeTopicConfigs(ctx, topic)
	if err != nil || len(found) != 1 || found[0].Err != nil {
		return usualBatch
	}
	for _, c := range found[0].Configs {
		if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); c.Key == "max.message.bytes" && err == nil && n >= 512 { // the least that kgo can be told
			return int32(min(n, maxLine))
		}
	}
	return usualBatch
}

// readLines calls fn for each line of in (the last may lack its newline) with its number from 1 and bytes that fn may
// keep, until in ends, fn fails or ctx ends. A blocked Read is left behind when ctx ends: stdin cannot be interrupted.
func readLines(ctx context.Context, in io.Reader, fn func(n int, line []byte) error) error {
	type result struct {
		line []byte
		err  error
	}
	lines := make(chan []result, 4)
	go func() {
		defer close(lines)
		r := bufio.NewReaderSize(in, 64<<10)
		var batch []result
		for {
			line, err := readLine(r)
			if err != io.EOF || len(line) > 0 {
				batch = append(batch, result{line, err})
			}
			if err == io.EOF {
				err = nil
				if len(batch) == 0 {
					return
				}
			} else if err == nil && r.Buffered() > 0 && len(batch) < 512 {
				continue
			}
			last := batch[len(batch)-1].err != nil
			select {
			case lines <- batch:
				batch = nil
			case <-ctx.Done():
				return
			}
			if last {
				return
			}
		}
	}()
	n := 0
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case batch, ok := <-lines:
			if !ok {
				return nil
			}
			for _, l := range batch {
				n++
				if l.err != nil && l.err != io.EOF {
					return fmt.Errorf("read line %d: %w", n, l.err)
				}
				if err := fn(n, l.line); err != nil {
					return err
				}
			}
		}
	}
}

var errLongLine = errors.New("longer than 64 MiB: split it, or leave it out")

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, errLongLine
		}
		line = append(line, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}
