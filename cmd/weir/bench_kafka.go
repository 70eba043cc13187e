package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

// benchKafkaCmd is `weir bench kafka …`.
type benchKafkaCmd struct {
	Produce benchProduceCmd `cmd:"" help:"Produce with acks=all."`
	Fetch   benchFetchCmd   `cmd:"" help:"Read a topic, again and again if need be."`
}

type benchKafkaFlags struct {
	Topic       string        `default:"bench" help:"The topic (default ${default})."`
	Client      string        `default:"kgo" enum:"kgo,raw" help:"kgo: franz-go as an application uses it; raw: ready batches over the bare protocol (default ${default})."`
	Connections int           `short:"c" default:"4" help:"Connections of the raw client (default ${default})."`
	Duration    time.Duration `short:"d" default:"10s" help:"How long to measure (default ${default})."`
	Pid         int           `help:"The server's process id, for its CPU time and memory."`
}

func (f *benchKafkaFlags) validate() error {
	if f.Duration <= 0 || f.Connections < 1 || f.Connections > 1000 {
		return usagef("--duration must be more than 0, --connections 1 to 1000")
	}
	return nil
}

type benchProduceCmd struct {
	benchKafkaFlags
	Size       int   `default:"256" help:"Record bytes (default ${default})."`
	Batch      int   `default:"65536" help:"Batch bytes (default ${default})."`
	Window     int   `short:"w" default:"5" help:"Requests in flight per connection (default ${default})."`
	Records    int64 `help:"Stop after about so many records, if that comes first (default: no limit)."`
	Partitions int32 `default:"16" help:"Partitions, if the topic has to be made (default ${default})."`
}

// benchKafkaResult is the JSON form.
type benchKafkaResult struct {
	Client     string `json:"client"`
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	usage
}

func (r *benchKafkaResult) columns() *columns {
	t := &columns{}
	t.add("CLIENT", "%s", r.Client)
	t.add("PARTITIONS", "%d", r.Partitions)
	t.usage(r.usage)
	return t
}

// benchProduceResult adds what only a producer can tell: from handing a record (raw: a batch) over to its ack.
type benchProduceResult struct {
	benchKafkaResult
	latencies
}

// Run produces for the duration.
func (c *benchProduceCmd) Run(g *Globals) error {
	if err := c.validate(); err != nil {
		return err
	}
	if c.Size < 1 || c.Batch < c.Size || c.Batch > 16<<20 || c.Window < 1 || c.Window > 1000 || c.Partitions < 1 || c.Records < 0 {
		return usagef("want --size 1 or more, --batch from --size to 16777216, --window 1 to 1000, --partitions 1 or more, --records 0 or more")
	}
	res, err := c.run(g)
	if g.Ctx.Err() != nil {
		return failf("bench kafka produce: interrupted")
	}
	if err != nil {
		return fail("bench kafka produce", err)
	}
	t := res.columns()
	t.latencies(res.latencies)
	return g.emit(res, t.table())
}

func (c *benchProduceCmd) run(g *Globals) (*benchProduceResult, error) {
	adm, err := g.admin()
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	resp, err := adm.CreateTopic(g.Ctx, c.Partitions, -1, nil, c.Topic)
	if err = errors.Join(err, resp.Err); err != nil && !isExists(err) {
		return nil, err
	}
	leaders, err := partitionLeaders(g, adm, c.Topic)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(g.Ctx, c.Duration)
	defer cancel()
	bar := timeBar(g, "bench kafka produce", c.Duration)
	defer bar()
	m, err := startMeter(c.Pid)
	if err != nil {
		return nil, err
	}
	hist := newHistogram()
	var n int64
	if c.Client == "raw" {
		n, err = c.raw(ctx, leaders, hist)
	} else {
		n, err = c.kgo(ctx, g, hist)
	}
	if err != nil {
		return nil, err
	}
	u, err := m.stop(n, n*int64(c.Size))
	if err != nil {
		return nil, err
	}
	return &benchProduceResult{benchKafkaResult{Client: c.Client, Topic: c.Topic, Partitions: len(leaders), usage: u}, summary(hist)}, nil
}

// timeBar is a progress bar over a duration; the returned func ends it.
func timeBar(g *Globals, label string, d time.Duration) (stop func()) {
	bar := newProgress(g, label, d.Milliseconds())
	if bar == nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				bar.add(progressEvery.Milliseconds())
			}
		}
	}()
	return func() { close(quit); <-ended; bar.finish() }
}

// partitionLeaders returns the address of each partition's leader.
func partitionLeaders(g *Globals, adm *kadm.Client, topic string) ([]string, error) {
	md, err := adm.Metadata(g.Ctx, topic)
	if err != nil {
		return nil, err
	}
	td := md.Topics[topic]
	if td.Err != nil {
		return nil, td.Err
	}
	addr := map[int32]string{}
	for _, b := range md.Brokers {
		addr[b.NodeID] = fmt.Sprintf("%s:%d", b.Host, b.Port)
	}
	leaders := make([]string, len(td.Partitions))
	for _, p := range td.Partitions.Sorted() {
		if leaders[p.Partition] = addr[p.Leader]; leaders[p.Partition] == "" {
			return nil, fmt.Errorf("partition %d: %w", p.Partition, kerr.LeaderNotAvailable)
		}
	}
	return leaders, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(' ' + rand.IntN(95))
	}
	return b
}

// kgo produces as an application with its own buffering would; it returns when all is acked.
func (c *benchProduceCmd) kgo(ctx context.Context, g *Globals, hist *histogram) (int64, error) {
	cl, err := g.client(kgo.DefaultProduceTopic(c.Topic), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(int32(c.Batch)+1024), kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(100_000), kgo.RecordDeliveryTimeout(produceTimeout))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	value := randomBytes(c.Size)
	var acked atomic.Int64
	var once sync.Once
	var failed error
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := func(r *kgo.Record, err error) {
		if err != nil {
			once.Do(func() { failed = err; stop() })
			return
		}
		if acked.Add(1)%64 == 0 { // a sample: the clock is not free
			hist.record(time.Since(r.Timestamp), 1)
		}
	}
	delivering := context.WithoutCancel(ctx)
	for n := int64(0); c.Records == 0 || n < c.Records; n++ {
		if n%64 == 0 && ctx.Err() != nil {
			break
		}
		cl.Produce(delivering, &kgo.Record{Value: value}, done)
	}
	err = cl.Flush(delivering)
	once.Do(func() {})
	return acked.Load(), errors.Join(failed, err)
}

// batch is a sealed batch of c.Batch bytes at most, and how many records are in it.
func (c *benchProduceCmd) sealed() (log.Batch, int64) {
	var bb log.BatchBuilder
	r := log.Record{Value: randomBytes(c.Size), Timestamp: time.Now().UnixMilli()}
	bb.Reset()
	for bb.Append(&r); bb.Len()+c.Size+16 <= c.Batch; {
		bb.Append(&r)
	}
	return bb.Seal(0, -1), int64(bb.Count())
}

type benchFetchCmd struct {
	benchKafkaFlags
	MaxBytes int32 `default:"1048576" help:"Fetch so much per partition and request (default ${default})."`
}

// Run reads for the duration, beginning anew at the end of the topic.
func (c *benchFetchCmd) Run(g *Globals) error {
	if err := c.validate(); err != nil {
		return err
	}
	if c.MaxBytes < 1 || c.MaxBytes > 256<<20 {
		return usagef("--max-bytes %d: want 1 to 268435456", c.MaxBytes)
	}
	res, err := c.run(g)
	if g.Ctx.Err() != nil {
		return failf("bench kafka fetch: interrupted")
	}
	if err != nil {
		return fail("bench kafka fetch", err)
	}
	return g.emit(res, res.columns().table())
}

func (c *benchFetchCmd) run(g *Globals) (*benchKafkaResult, error) {
	adm, err := g.admin()
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	ext, err := extents(g, adm, position{kind: atBeginning}, c.Topic)
	if err != nil {
		return nil, err
	}
	parts := ext[c.Topic]
	var total int64
	for _, e := range parts {
		total += e.end - e.start
	}
	if total == 0 {
		return nil, failure{fmt.Errorf("topic %s is empty", c.Topic), "fill it with `weir bench kafka produce`"}
	}
	leaders, err := partitionLeaders(g, adm, c.Topic)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(g.Ctx, c.Duration)
	defer cancel()
	defer timeBar(g, "bench kafka fetch", c.Duration)()
	m, err := startMeter(c.Pid)
	if err != nil {
		return nil, err
	}
	var records, bytes int64
	if c.Client == "raw" {
		records, bytes, err = c.raw(ctx, leaders, parts)
	} else {
		records, bytes, err = c.kgo(ctx, g, parts)
	}
	if err != nil {
		return nil, err
	}
	u, err := m.stop(records, bytes)
	if err != nil {
		return nil, err
	}
	return &benchKafkaResult{Client: c.Client, Topic: c.Topic, Partitions: len(leaders), usage: u}, nil
}

// kgo consumes the topic from end to end with a new client for each pass. bytes counts keys and values.
func (c *benchFetchCmd) kgo(ctx context.Context, g *Globals, parts map[int32]extent) (records, bytes int64, err error) {
	for ctx.Err() == nil {
		s := newScan(c.Topic, parts)
		cl, err := g.client(append(s.opts(true), kgo.FetchMaxPartitionBytes(c.MaxBytes), kgo.FetchMaxBytes(16*c.MaxBytes))...)
		if err != nil {
			return 0, 0, err
		}
		for !s.finished() && ctx.Err() == nil {
			fetches := cl.PollFetches(ctx)
			if err := pollError(ctx, fetches); err != nil {
				if ctx.Err() != nil {
					break
				}
				cl.Close()
				return 0, 0, err
			}
			for it := fetches.RecordIter(); !it.Done(); {
				r := it.Next()
				if s.seen(r) {
					records++
					bytes += int64(len(r.Key) + len(r.Value))
				}
			}
		}
		cl.Close()
	}
	return records, bytes, nil
}
