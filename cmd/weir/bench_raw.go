package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// The raw Kafka client: requests are built once and only their correlation id and offsets change, responses are looked
// at no more than it takes to notice an error and to go on.

const (
	rawProduceVersion = 7 // the newest without tagged fields: every broker since Kafka 2.1 has it
	rawFetchVersion   = 11
	rawMaxResponse    = 1 << 30
	correlationAt     = 8 // in a request, after length, key and version
)

type rawConn struct {
	net.Conn
	r   *bufio.Reader
	buf []byte
}

// dialRaw connects; the connection breaks when ctx is over by more than a grace for the last answers.
func dialRaw(ctx context.Context, addr string) (*rawConn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(requestTimeout)
	}
	return &rawConn{Conn: c, r: bufio.NewReaderSize(c, 64<<10)}, c.SetDeadline(until.Add(requestTimeout))
}

// response returns the next response after its correlation id, valid until the next call.
func (c *rawConn) response() (correlation int32, body []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:])) - 4
	if n < 0 || n > rawMaxResponse {
		return 0, nil, fmt.Errorf("response of %d bytes", n)
	}
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	body = c.buf[:n]
	_, err = io.ReadFull(c.r, body)
	return int32(binary.BigEndian.Uint32(head[4:])), body, err
}

// spread gives partitions to connections, each connection to one leader.
func spread(leaders []string, connections int) (addrs []string, parts [][]int32) {
	at := map[string][]int{} // leader → its connections
	for p, addr := range leaders {
		if len(at[addr]) == 0 || len(addrs) < connections {
			at[addr] = append(at[addr], len(addrs))
			addrs, parts = append(addrs, addr), append(parts, nil)
		}
		own := at[addr]
		i := own[0]
		for _, j := range own { // the one with the fewest
			if len(parts[j]) < len(parts[i]) {
				i = j
			}
		}
		parts[i] = append(parts[i], int32(p))
	}
	return addrs, parts
}

// raw produces until ctx ends and everything is acked; it returns the number of acked records.
func (c *benchProduceCmd) raw(ctx context.Context, leaders []string, hist *histogram) (int64, error) {
	batch, count := c.sealed()
	addrs, parts := spread(leaders, c.Connections)
	var acked, sent atomic.Int64
	more := func() bool { return ctx.Err() == nil && (c.Records == 0 || sent.Add(count) <= c.Records) }
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i := range addrs {
		wg.Go(func() {
			errs[i] = c.rawLoop(ctx, more, addrs[i], parts[i], batch, func(took time.Duration) {
				acked.Add(count)
				hist.record(took, 1)
			})
		})
	}
	wg.Wait()
	return acked.Load(), errors.Join(errs...)
}

func (c *benchProduceCmd) rawLoop(ctx context.Context, more func() bool, addr string, parts []int32, batch log.Batch, acked func(time.Duration)) error {
	conn, err := dialRaw(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	requests := make([][]byte, len(parts))
	for i, p := range parts {
		requests[i] = c.request(p, batch)
	}
	sent := make([]time.Time, c.Window) // by correlation id modulo window
	var next, answered int32
	for {
		for int(next-answered) < c.Window && more() {
			b := requests[int(next)%len(requests)]
			binary.BigEndian.PutUint32(b[correlationAt:], uint32(next))
			sent[int(next)%c.Window] = time.Now()
			if _, err := conn.Write(b); err != nil {
				return err
			}
			next++
		}
		if next == answered {
			return nil
		}
		id, body, err := conn.response()
		if err != nil {
			return err
		}
		if id != answered {
			return fmt.Errorf("response %d came before response %d", id, answered)
		}
		if err := produceError(body); err != nil {
			return err
		}
		acked(time.Since(sent[int(id)%c.Window]))
		answered++
	}
}

// request is a whole Produce request for one partition.
func (c *benchProduceCmd) request(partition int32, batch log.Batch) []byte {
	req := kmsg.NewProduceRequest()
	req.SetVersion(rawProduceVersion)
	req.Acks, req.TimeoutMillis = -1, int32(requestTimeout.Milliseconds())
	t := kmsg.NewProduceRequestTopic()
	t.Topic = c.Topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, batch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("weir-bench")).AppendRequest(nil, &req, 0)
}

func produceError(body []byte) error {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(rawProduceVersion)
	if err := resp.ReadFrom(body); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("partition %d: %w", p.Partition, err)
			}
		}
	}
	return nil
}

// raw reads until ctx ends, each connection its partitions in turn. bytes counts whole batches.
func (c *benchFetchCmd) raw(ctx context.Context, leaders []string, extents map[int32]extent) (records, bytes int64, err error) {
	addrs, parts := spread(leaders, c.Connections)
	var r, b atomic.Int64
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i := range addrs {
		wg.Go(func() { errs[i] = c.rawLoop(ctx, addrs[i], parts[i], extents, &r, &b) })
	}
	wg.Wait()
	return r.Load(), b.Load(), errors.Join(errs...)
}

func (c *benchFetchCmd) rawLoop(ctx context.Context, addr string, parts []int32, extents map[int32]extent, records, bytes *atomic.Int64) error {
	conn, err := dialRaw(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The duration is over in the middle of an answer: that one is not counted.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("weir-bench"))
	var out []byte
	for read := true; read; { // every partition is empty: nothing to do
		read = false
		for _, p := range parts {
			for at, end := extents[p].start, extents[p].end; at < end; read = true {
				out = format.AppendRequest(out[:0], c.request(p, at), 0)
				_, err := conn.Write(out)
				var body []byte
				if err == nil {
					_, body, err = conn.response()
				}
				if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if at, err = consumeBatches(body, at, records, bytes); err != nil {
					return fmt.Errorf("partition %d: %w", p, err)
				}
			}
		}
	}
	return nil
}

func (c *benchFetchCmd) request(partition int32, at int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(rawFetchVersion)
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = -1, 500, 1, c.MaxBytes
	t := kmsg.NewFetchRequestTopic()
	t.Topic = c.Topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, at, c.MaxBytes, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// consumeBatches walks the batches of a Fetch response by their headers and returns the offset after the last whole one.
func consumeBatches(body []byte, at int64, records, bytes *atomic.Int64) (next int64, err error) {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(rawFetchVersion)
	if err := resp.ReadFrom(body); err != nil {
		return at, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return at, err
	}
	next = at
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return at, err
			}
			for b := p.RecordBatches; len(b) > 0; {
				batch, err := log.NextBatch(b, 0)
				if errors.Is(err, log.ErrShort) {
					break // cut off by the byte limit
				}
				if err != nil {
					return at, err
				}
				records.Add(int64(batch.Count()))
				bytes.Add(int64(batch.Size()))
				next = int64(batch.NextOffset())
				b = b[batch.Size():]
			}
		}
	}
	if next == at {
		return at, fmt.Errorf("nothing whole at offset %d; use a greater --max-bytes", at)
	}
	return next, nil
}
