package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-io/weir/log"
)

// Down is one flow from the target to this cluster: commands, configuration, manifests for devices.
type Down struct {
	From   string `yaml:"from"`   // topic at the target; with MQTT a topic filter
	Topic  string `yaml:"topic"`  // of this cluster, which gets the records [from; with MQTT commands]
	To     string `yaml:"to"`     // MQTT topic under which devices see them: {mqtt.topic} [default], {key}, {topic}, {site}, {cluster}
	Retain bool   `yaml:"retain"` // each is the retained message of its topic
	Start  string `yaml:"start"`  // of what Kafka has at the first start: nothing with end [default], all with beginning
}

const (
	startEnd       = "end"
	startBeginning = "beginning"
	maxDowns       = 16
)

// ViaHeader stands in a record that came down: <cluster>/<uplink>, and with Kafka /<topic>/<partition>/<offset> at the target. That uplink does not carry it up again.
const ViaHeader = "weir.via"

func (d *Down) defaults(mqtt bool) {
	if d.Topic == "" {
		d.Topic = d.From
		if mqtt {
			d.Topic = "commands"
		}
	}
	if d.To == "" {
		d.To = "{mqtt.topic}"
	}
	if d.Start == "" && !mqtt {
		d.Start = startEnd
	}
}

// down runs one flow.
type down struct {
	f      *Forwarder
	cfg    Down
	to     topicTemplate
	state  downState
	logger *slog.Logger

	// Of one connection.
	parts []InletPartition
	saved time.Time
	dirty bool                     // something has come down that is not stored
	there map[int32]map[int64]bool // with Kafka, what is in the topic here behind Next already
	anew  bool                     // and its topic was made anew at the target: none of it was there at the first start

	mu      sync.Mutex
	taken   int64 // records that came down
	skipped int64 // that were this cluster's own
	err     error // why it has to begin anew
}

// downState is how far a flow has come, as it is stored here. Fields are only ever added.
type downState struct {
	ID    string               `json:"id,omitempty"`    // with Kafka, of the topic at the target
	Next  map[int32]int64      `json:"next,omitempty"`  // with Kafka, by partition at the target: the first offset that did not come down
	Local map[int32]log.Offset `json:"local,omitempty"` // by partition here: what came down after that stands at or behind this offset
	At    int64                `json:"at"`              // milliseconds since 1970
}

func newDown(f *Forwarder, cfg Down) *down {
	return &down{
		f: f, cfg: cfg, to: parseTemplate(cfg.To, f.Site, f.Cluster), logger: f.Logger.With("down", cfg.From),
		state: downState{Next: map[int32]int64{}, Local: map[int32]log.Offset{}},
	}
}

func (d *down) key() []byte { return []byte("down/" + d.f.Config.Name + "/" + d.cfg.From) }

// restore takes an entry of the Store if it is the flow's.
func (d *down) restore(key, value []byte) error {
	if !bytes.Equal(key, d.key()) || value == nil {
		return nil
	}
	var s downState
	if err := json.Unmarshal(value, &s); err != nil {
		return fmt.Errorf("how far %s has come down: %w", d.cfg.From, err)
	}
	d.state.At, d.state.ID = s.At, s.ID
	for p, o := range s.Next {
		d.state.Next[p] = o
	}
	for p, o := range s.Local {
		d.state.Local[p] = o
	}
	return nil
}

// save stores how far the flow has come. Nothing may be on its way. As long as something is here that stands at the target behind Next, the look for it must begin
// where it did.
func (d *down) save(ctx context.Context) error {
	if len(d.there) == 0 {
		for i, p := range d.parts {
			d.state.Local[int32(i)] = max(d.state.Local[int32(i)], p.End())
		}
	}
	now := time.Now()
	d.state.At, d.saved, d.dirty = now.UnixMilli(), now, false
	value, err := json.Marshal(d.state)
	if err != nil {
		return fmt.Errorf("how far it has come down cannot be written: %w", err)
	}
	return await(ctx, func(done func(error)) { d.f.Store.Put(d.key(), value, done) })
}

// await waits for what calls back once.
func await(ctx context.Context, begin func(done func(error))) error {
	result := make(chan error, 1)
	begin(func(err error) { result <- err })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run takes down until ctx ends. What fails is tried again, with growing pauses.
func (d *down) run(ctx context.Context) {
	connected := d.kafka
	if d.f.Config.isMQTT() {
		connected = d.mqtt
	}
	pause := minBackOff
	for ctx.Err() == nil {
		if d.f.isPaused() {
			d.f.sleep(ctx, pausedLook)
			continue
		}
		began := time.Now()
		err := connected(ctx)
		d.told(err)
		if err == nil || ctx.Err() != nil {
			continue // paused
		}
		d.logger.Warn("what comes down begins anew", "to", d.f.Config.To, "error", err)
		if time.Since(began) > maxBackOff {
			pause = minBackOff
		}
		d.f.sleep(ctx, pause/2+rand.N(pause/2))
		pause = min(2*pause, maxBackOff)
	}
}

// pausedLook is how often a flow looks whether the uplink is paused.
const pausedLook = time.Second

// isPaused says whether nothing is to go, up or down.
func (f *Forwarder) isPaused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused || f.closed()
}

func (d *down) told(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// own says whether a record began in this cluster: then it is not taken down, or it would go round for ever.
func (d *down) own(origin string) bool {
	return len(origin) > len(d.f.Cluster) && origin[:len(d.f.Cluster)] == d.f.Cluster && origin[len(d.f.Cluster)] == '/'
}

func (d *down) skip() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.skipped++
}

// via is what stands in the records that come down through the uplink.
func (f *Forwarder) via() string { return f.Cluster + "/" + f.Config.Name }

// cameDown says whether a record of a topic that gets what comes down came from where it would go. Elsewhere the header says nothing: a device could write it,
// and its messages would stay here.
func (p *part) cameDown(r *log.Record) bool {
	if !p.downward {
		return false
	}
	via := p.f.via()
	for _, h := range r.Headers {
		if string(h.Key) == headerQoS {
			return false // user properties follow
		}
		if string(h.Key) == ViaHeader && (string(h.Value) == via || bytes.HasPrefix(h.Value, []byte(via+"/"))) {
			return true
		}
	}
	return false
}
