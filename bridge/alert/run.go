package alert

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/internal/payload"
)

// Config is what Run needs besides the rules.
type Config struct {
	Rules  *File
	Client []kgo.Opt     // how to reach the cluster: seed brokers, client id, security
	Print  func(Alert)   // called for each alert once it is stored; may be nil
	Ready  func()        // called when the group has given us partitions for the first time; may be nil
	Commit time.Duration // how often to commit; default 5 s
	Tick   time.Duration // how often time passes for the rules; default 1 s
	Logger *slog.Logger  // default: nowhere
}

// commitTimeout bounds the last commit of a stopping instance.
const commitTimeout = 10 * time.Second

// Run consumes the rules' topics as a member of their group until ctx ends, which is no error. Any number of instances
// may run. An alert is durable (acks=all) before the offsets behind it are committed.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	set(&cfg.Commit, 5*time.Second)
	set(&cfg.Tick, time.Second)
	r := &runner{cfg: cfg, engine: NewEngine(cfg.Rules)}
	if err := r.restore(ctx); err != nil {
		return fmt.Errorf("read topic %s: %w", cfg.Rules.Output, err)
	}
	opts := append([]kgo.Opt{
		kgo.ConsumerGroup(cfg.Rules.Group),
		kgo.ConsumeTopics(cfg.Rules.Topics()...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // retention passed our commit: go on with what is left
		kgo.BlockRebalanceOnPoll(),
		kgo.DisableAutoCommit(),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.AdjustFetchOffsetsFn(r.assigned),
		kgo.OnPartitionsRevoked(r.revoked),
		kgo.OnPartitionsLost(r.lost),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	}, cfg.Client...)
	r.mu.Lock() // the client joins the group at once, and its first assignment must find it here
	cl, err := kgo.NewClient(opts...)
	r.cl = cl
	r.mu.Unlock()
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	return r.loop(ctx)
}

// runner is the shell. A rebalance waits while polled records are on their way through the engine
// (BlockRebalanceOnPoll); mu is for the rest, as when time passes without records.
type runner struct {
	cfg Config
	cl  *kgo.Client

	mu     sync.Mutex
	engine *Engine
	ready  bool
}

func (r *runner) loop(ctx context.Context) error {
	committed := time.Now()
	for {
		poll, cancel := context.WithTimeout(ctx, r.cfg.Tick)
		fetches := r.cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return r.stop(ctx)
		}
		if err := r.problem(fetches); err != nil {
			return err
		}
		due := time.Since(committed) >= r.cfg.Commit
		if err := r.step(ctx, fetches, due); err != nil {
			return err
		}
		if due {
			committed = time.Now()
		}
		r.cl.AllowRebalance()
	}
}

// step takes a poll through the engine: records, time, alerts, and if it is due the commit behind them.
func (r *runner) step(ctx context.Context, fetches kgo.Fetches, commit bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var alerts []Alert
	now := time.Now()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		id := Partition{p.Topic, p.Partition}
		for _, rec := range p.Records {
			alerts = append(alerts, r.engine.Observe(now, id, r.record(rec), p.HighWatermark)...)
		}
	})
	alerts = append(alerts, r.engine.Tick(now)...)
	if err := r.publish(ctx, alerts); err != nil || !commit {
		return err
	}
	if err := r.commitLocked(ctx); err != nil {
		r.cfg.Logger.Warn("commit", "err", err) // the next one covers it
	}
	return nil
}

// problem is the first error of a poll that waiting does not mend.
func (r *runner) problem(fetches kgo.Fetches) error {
	var first error
	var op *net.OpError
	fetches.EachError(func(topic string, p int32, err error) {
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		case kerr.IsRetriable(err), kgo.IsRetryableBrokerErr(err), errors.As(err, &op): // a node restarts
			r.cfg.Logger.Warn("fetch", "topic", topic, "partition", p, "err", err)
		case first == nil:
			first = fmt.Errorf("fetch %s/%d: %w", topic, p, err)
		}
	})
	return first
}

// stop commits what is judged; the alerts behind it are stored.
func (r *runner) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.commitLocked(ctx)
}

// publish returns when the alerts are durable.
func (r *runner) publish(ctx context.Context, alerts []Alert) error {
	if len(alerts) == 0 {
		return nil
	}
	recs := make([]*kgo.Record, len(alerts))
	for i, a := range alerts {
		recs[i] = &kgo.Record{Topic: r.cfg.Rules.Output, Key: []byte(a.Device), Value: a.encode(),
			Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json")}}}
	}
	// Interrupted or not: what the engine has said must be stored before its offsets are.
	if err := r.cl.ProduceSync(context.WithoutCancel(ctx), recs...).FirstErr(); err != nil {
		return fmt.Errorf("produce to %s: %w", r.cfg.Rules.Output, err)
	}
	for _, a := range alerts {
		if r.cfg.Print != nil {
			r.cfg.Print(a)
		}
	}
	return nil
}

// commitLocked writes each partition's position, with its watermark in the metadata.
func (r *runner) commitLocked(ctx context.Context) error {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	marks := map[Partition]string{}
	for p := range r.engine.parts {
		offset, watermark, ok := r.engine.Position(p)
		if !ok {
			continue
		}
		if offsets[p.Topic] == nil {
			offsets[p.Topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[p.Topic][p.Index] = kgo.EpochOffset{Epoch: -1, Offset: offset}
		marks[p] = formatMark(watermark)
	}
	if len(offsets) == 0 {
		return nil
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				mark := marks[Partition{t.Topic, t.Partitions[j].Partition}]
				t.Partitions[j].Metadata = &mark
			}
		}
		return nil
	})
	var failed error
	r.cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if resp == nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if e := kerr.ErrorForCode(p.ErrorCode); e != nil && failed == nil {
					failed = fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, e)
				}
			}
		}
	})
	return failed
}

const markPrefix = "weir-alert watermark="

func formatMark(ms int64) string { return markPrefix + strconv.FormatInt(ms, 10) }

func parseMark(s string) (ms int64, ok bool) {
	n, found := strings.CutPrefix(s, markPrefix)
	ms, err := strconv.ParseInt(n, 10, 64)
	return ms, found && err == nil
}

// assigned begins partitions where their last owner's commit says, with its watermark; where nobody has committed, at
// the present end: a new group watches what happens from now on. The end is settled here, before Ready is told, so that
// whoever waits for that has everything watched that follows.
func (r *runner) assigned(ctx context.Context, at map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	r.mu.Lock()
	cl := r.cl
	r.mu.Unlock()
	adm := kadm.NewClient(cl)
	committed, err := adm.FetchOffsets(ctx, r.cfg.Rules.Group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("read offsets of group %s: %w", r.cfg.Rules.Group, err)
	}
	ends, err := adm.ListEndOffsets(ctx, r.cfg.Rules.Topics()...)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for topic, parts := range at {
		for p := range parts {
			var watermark int64
			o, ok := committed.Lookup(topic, p)
			if ok = ok && o.At >= 0; !ok {
				end, known := ends.Lookup(topic, p)
				if !known || end.Err != nil {
					return nil, fmt.Errorf("end of %s/%d: %w", topic, p, cmp.Or(end.Err, error(kerr.UnknownTopicOrPartition)))
				}
				o.At = end.Offset
				parts[p] = kgo.NewOffset().At(end.Offset)
			} else {
				watermark, ok = parseMark(o.Metadata)
			}
			r.engine.Assign(Partition{topic, p}, o.At, watermark, ok)
		}
	}
	if !r.ready && r.cfg.Ready != nil {
		r.cfg.Ready()
	}
	r.ready = true
	return at, nil
}

func (r *runner) revoked(ctx context.Context, cl *kgo.Client, revoked map[string][]int32) {
	r.mu.Lock()
	err := r.commitLocked(ctx)
	r.mu.Unlock()
	if err != nil {
		r.cfg.Logger.Warn("commit before giving partitions away", "err", err)
	}
	r.lost(ctx, cl, revoked)
}

func (r *runner) lost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for topic, parts := range lost {
		for _, p := range parts {
			r.engine.Revoke(Partition{topic, p})
		}
	}
}

// restore makes the alert topic if need be and reads what it said of every rule and device.
func (r *runner) restore(ctx context.Context) error {
	topic := r.cfg.Rules.Output
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.FetchMaxWait(500 * time.Millisecond), kgo.KeepControlRecords()}, r.cfg.Client...)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	resp, err := adm.CreateTopic(ctx, -1, -1, nil, topic)
	if err = errors.Join(err, resp.Err); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return err
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	if err := errors.Join(starts.Error(), ends.Error()); err != nil {
		return err
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if s, ok := starts.Lookup(topic, o.Partition); ok && s.Offset < o.Offset {
			left[o.Partition], from[o.Partition] = o.Offset, kgo.NewOffset().At(s.Offset)
		}
	})
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			var a Alert
			if !rec.Attrs.IsControl() && json.Unmarshal(rec.Value, &a) == nil && a.Rule != "" {
				r.engine.Restore(a)
			}
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
		})
	}
	return nil
}

// record turns a Kafka record into the engine's: the device is the header mqtt.client, else the key.
func (r *runner) record(rec *kgo.Record) Record {
	device := rec.Key
	for _, h := range rec.Headers {
		if h.Key == "mqtt.client" {
			device = h.Value
			break
		}
	}
	p := &value{raw: rec.Value}
	out := Record{Offset: rec.Offset, Time: rec.Timestamp.UnixMilli(), Device: string(device), Value: p.number}
	if field := r.cfg.Rules.Time; field != "record" {
		if ms, ok := p.number(strings.Split(field, ".")); ok {
			out.Time = int64(ms)
		}
	}
	return out
}

// value decodes a JSON or CBOR map when a field is first asked for.
type value struct {
	raw     []byte
	decoded bool
	fields  map[string]any
}

func (p *value) number(path []string) (float64, bool) {
	if !p.decoded {
		p.decoded = true
		p.fields, _ = payload.Fields(p.raw) // what does not decode has no fields
	}
	var v any = p.fields
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return 0, false
		}
		v = m[name]
	}
	switch n := v.(type) {
	case float64:
		return n, true
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case bool:
		if n {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}
