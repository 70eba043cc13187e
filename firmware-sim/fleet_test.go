package firmwaresim

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// simulate runs a fleet against a stand-in in simulated time, lets meddle interfere, and checks what must hold always:
// the ledger is consistent, every acked number reached the broker, no number stands for two readings.
func simulate(t *testing.T, cfg Config, meddle func(f *Fleet, s *standin)) (*Ledger, *standin) {
	t.Helper()
	var led *Ledger
	var s *standin
	synctest.Test(t, func(t *testing.T) {
		s = newStandin(t)
		cfg.Dial = s.dial
		f, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if meddle != nil {
			go meddle(f, s)
		}
		led = f.Run(t.Context())
		s.close(t)
	})
	if err := led.Check(); err != nil {
		t.Error(err)
	}
	for i := range led.Devices {
		d := &led.Devices[i]
		var got Ranges
		ts := map[int64]int64{}
		for _, p := range s.rec.telemetry(d.Device) {
			if old, again := ts[p.seq]; again && old != p.ts {
				t.Errorf("%s: number %d stands for the readings of %d and %d", d.Device, p.seq, old, p.ts)
			}
			ts[p.seq] = p.ts
			got.Add(p.seq)
		}
		if missing := d.AckedSeqs.Minus(&got); len(missing) > 0 {
			t.Errorf("%s: acked but never received: %v", d.Device, missing)
		}
		if gaps := got.Gaps(0); len(gaps) > 0 {
			t.Errorf("%s: never received: %v", d.Device, gaps)
		}
	}
	return led, s
}

func TestFleetDeliversEverything(t *testing.T) {
	for _, profile := range ProfileNames() {
		for _, format := range []Format{JSON, CBOR} {
			t.Run(profile+"/"+format.String(), func(t *testing.T) {
				led, s := simulate(t, Config{Devices: 5, Profile: profile, Format: format, Duration: 2 * time.Minute, Seed: 1}, nil)
				tot := led.Totals()
				if tot.Sent != 5*120 || tot.Acked != tot.Sent || tot.Pending != 0 || tot.Resent != 0 || tot.Connects != 5 {
					t.Errorf("5 devices at 1/s for 2 minutes: %+v", tot)
				}
				id := "sim-" + profile + "-3"
				got := s.rec.telemetry(id)
				for i, p := range got {
					if p.seq != int64(i) || p.topic != "devices/"+id+"/telemetry" || p.contentType != format.ContentType() {
						t.Fatalf("message %d: %+v", i, p)
					}
					if i > 0 && p.ts-got[i-1].ts != 1000 {
						t.Fatalf("message %d is stamped %d ms after the one before", i, p.ts-got[i-1].ts)
					}
				}
			})
		}
	}
}

// The broker goes away for a minute in the middle of everything, twice.
func TestOutageIsBufferedAndResent(t *testing.T) {
	led, s := simulate(t, Config{Devices: 10, Duration: 5 * time.Minute, Every: 100 * time.Millisecond, Drain: 40 * time.Second}, func(_ *Fleet, s *standin) {
		for range 2 {
			time.Sleep(time.Minute) // simulated
			s.cut(true)
			time.Sleep(time.Minute)
			s.cut(false)
		}
	})
	tot := led.Totals()
	if tot.Acked != 10*3000 || tot.Skipped != 0 || tot.Connects < 30 {
		t.Errorf("after two outages: %+v", tot)
	}
	for _, p := range s.rec.telemetry("sim-thermostat-0") {
		if p.seq < 0 || p.seq >= 3000 {
			t.Errorf("number %d was never given", p.seq)
		}
	}
}

// A connection lost with publishes in flight: the same numbers again, and nothing else twice.
func TestUnackedReadingsAreSentAgainWithTheirNumbers(t *testing.T) {
	led, s := simulate(t, Config{Devices: 1, Duration: 30 * time.Second, Every: time.Second}, func(_ *Fleet, s *standin) {
		held := make(chan struct{})
		s.rec.mu.Lock()
		s.rec.drop = func(p publish) bool {
			if p.seq == 5 && !p.dup {
				select {
				case <-held:
				default:
					close(held)
					go s.cut(false)
					time.Sleep(time.Second) // the ack comes after the connection has gone
				}
			}
			return false
		}
		s.rec.mu.Unlock()
	})
	counts := map[int64]int{}
	for _, p := range s.rec.telemetry("sim-thermostat-0") {
		counts[p.seq]++
		// The server still had the session, so that a repeat is one in MQTT's sense [MQTT-3.3.1-1].
		if again := counts[p.seq] > 1; p.dup != again {
			t.Errorf("number %d came for time %d with DUP %v", p.seq, counts[p.seq], p.dup)
		}
	}
	if counts[5] != 2 || led.Devices[0].Resent < 1 || led.Devices[0].Acked != 30 {
		t.Errorf("number 5 came %d times; %+v", counts[5], led.Devices[0])
	}
}

func TestFullBufferStopsSamplingWithoutSpendingNumbers(t *testing.T) {
	led, _ := simulate(t, Config{Devices: 1, Duration: 3 * time.Minute, Buffer: 20, Drain: 60 * time.Second}, func(_ *Fleet, s *standin) {
		time.Sleep(time.Minute)
		s.cut(true)
		time.Sleep(time.Minute)
		s.cut(false)
	})
	d := led.Devices[0]
	if d.Skipped < 30 || d.Acked+d.Skipped != 180 || d.LastSeq != d.Acked-1 {
		t.Errorf("%+v", d)
	}
}

func TestRefusedReadingsAreNotAckedAndNotRepeated(t *testing.T) {
	led, s := simulate(t, Config{Devices: 1, Duration: 20 * time.Second}, func(_ *Fleet, s *standin) {
		s.rec.mu.Lock()
		s.rec.drop = func(p publish) bool { return p.seq == 7 }
		s.rec.mu.Unlock()
	})
	d := led.Devices[0]
	if d.Refused != 1 || d.Acked != 19 || d.AckedSeqs.Contains(7) || len(s.rec.telemetry(d.Device)) != 20 {
		t.Errorf("%+v", d)
	}
}

func TestFaults(t *testing.T) {
	cfg := Config{Devices: 4, Duration: 20 * time.Minute, Seed: 3, KeepAlive: 10 * time.Second, Drain: time.Minute}
	t.Run("duplicates", func(t *testing.T) {
		cfg := cfg
		cfg.Faults.Duplicates = 0.1
		led, s := simulate(t, cfg, nil)
		var extra int64
		for _, d := range led.Devices {
			extra += int64(len(s.rec.telemetry(d.Device))) - d.Sent
		}
		if tot := led.Totals(); tot.Duplicates != extra || extra < 300 || extra > 700 || tot.Acked != 4800 {
			t.Errorf("%d extra messages; %+v", extra, tot)
		}
	})
	t.Run("half-open", func(t *testing.T) {
		cfg := cfg
		cfg.Faults.HalfOpen = 2 * time.Minute
		led, _ := simulate(t, cfg, nil)
		if tot := led.Totals(); tot.Acked != 4800 || tot.Connects < 12 || tot.Resent < 50 {
			t.Errorf("%+v", tot)
		}
	})
	t.Run("reboot", func(t *testing.T) {
		cfg := cfg
		cfg.Faults.Reboot = time.Minute
		led, _ := simulate(t, cfg, nil)
		tot := led.Totals()
		if tot.Reboots < 40 || tot.Connects < tot.Reboots || tot.Acked != tot.Sent || tot.Sent < 4000 || tot.Sent > 4790 {
			t.Errorf("%+v", tot)
		}
	})
	t.Run("burst", func(t *testing.T) {
		cfg := cfg
		cfg.Faults.Burst, cfg.Faults.BurstSize = time.Minute, 200
		led, _ := simulate(t, cfg, nil)
		if tot := led.Totals(); tot.Acked < 4800+4*10*200 || (tot.Acked-4800)%200 != 0 {
			t.Errorf("%+v", tot)
		}
	})
	t.Run("clock", func(t *testing.T) {
		cfg := cfg
		cfg.Faults.ClockSkew, cfg.Faults.ClockDrift = time.Hour, 1000
		led, s := simulate(t, cfg, nil)
		off := 0
		for i, d := range led.Devices {
			got := s.rec.telemetry(d.Device)
			first, last := got[0].ts, got[len(got)-1].ts
			if span := last - first; span == int64(len(got)-1)*1000 {
				t.Errorf("%s has a clock that does not drift", d.Device)
			} else if span < 1_190_000 || span > 1_210_000 {
				t.Errorf("%s drifted too far: %d ms", d.Device, span)
			}
			if diff := first - led.Started.UnixMilli(); diff < -3_600_000 || diff > 3_602_000 {
				t.Errorf("%s starts %d ms off", d.Device, diff)
			} else if diff < 0 || diff > 2000 {
				off = i + 1
			}
		}
		if off == 0 {
			t.Error("no clock is off")
		}
	})
	t.Run("all", func(t *testing.T) {
		cfg := cfg
		cfg.Faults = Faults{Duplicates: 0.05, HalfOpen: 3 * time.Minute, Reboot: 4 * time.Minute, Burst: time.Minute, ClockSkew: time.Minute, ClockDrift: 100}
		led, _ := simulate(t, cfg, nil)
		if tot := led.Totals(); tot.Acked != tot.Sent || tot.Pending != 0 {
			t.Errorf("%+v", tot)
		}
	})
}

func TestReplayKeepsTimestampsAndPace(t *testing.T) {
	r, err := ReadRecording(strings.NewReader("timestamp,value\n2014-01-01 00:00:00,1.5\n2014-01-01 00:05:00,2.25\n2014-01-01 01:00:00,-3\n"))
	if err != nil {
		t.Fatal(err)
	}
	led, s := simulate(t, Config{Devices: 2, Replay: r, Speed: 60}, nil)
	if ran := led.Ended.Sub(led.Started); ran < time.Minute || ran > 62*time.Second {
		t.Errorf("an hour at 60x took %v", ran)
	}
	got := s.rec.telemetry("sim-replay-1")
	if len(got) != 3 || got[2].payload["value"] != -3.0 || got[2].ts != 1388538000000 || got[1].payload["value"] != 2.25 {
		t.Errorf("%+v", got)
	}
}

// All of a real recording, through a buffer that is far too small for its speed.
func TestReplayOfRealTelemetryLosesNothing(t *testing.T) {
	r, err := OpenRecording(recording(t, "ambient_temperature_system_failure.csv"))
	if err != nil {
		t.Fatal(err)
	}
	led, s := simulate(t, Config{Devices: 1, Replay: r, Speed: 1e7, Buffer: 50, Format: CBOR}, nil)
	if d := led.Devices[0]; d.Acked != int64(r.Len()) || d.Skipped != 0 {
		t.Errorf("%d rows: %+v", r.Len(), d)
	}
	for i, p := range s.rec.telemetry("sim-replay-0") {
		if ts, v := r.At(i); p.ts != ts || p.payload["value"] != v {
			t.Fatalf("row %d: %+v, want %v at %d", i, p, v, ts)
		}
	}
}

func TestCommandsAreAnswered(t *testing.T) {
	type answer struct{ topic, payload, correlation string }
	var answers []answer
	cfg := Config{Devices: 1, Duration: time.Minute}
	led, s := simulate(t, cfg, func(_ *Fleet, s *standin) {
		got := make(chan answer, 16)
		take := func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) {
			got <- answer{p.TopicName, string(p.Payload), string(p.Properties.CorrelationData)}
		}
		for i, filter := range []string{"devices/+/responses", "operator/7"} {
			if err := s.Subscribe(filter, i+1, take); err != nil {
				panic(err)
			}
		}
		time.Sleep(10*time.Second + 500*time.Millisecond)
		tell := func(payload string) {
			if err := s.Publish("devices/sim-thermostat-0/commands", []byte(payload), false, 1); err != nil {
				panic(err)
			}
			answers = append(answers, <-got)
		}
		tell(`{"cmd":"ping","id":"a"}`)
		tell(`{"cmd":"rate","rate":"10/s"}`)
		tell(`{"cmd":"status"}`)
		tell(`{"cmd":"dance"}`)
		tell("\xa1cc")              // broken CBOR
		tell("\xa1\x63cmd\x64ping") // {"cmd": "ping"}
		cl := s.NewClient(nil, "test", "operator", true)
		in := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, ProtocolVersion: 5,
			TopicName: "devices/sim-thermostat-0/commands", Payload: []byte(`{"cmd":"reboot"}`),
			Properties: packets.Properties{ResponseTopic: "operator/7", CorrelationData: []byte("c-9")}}
		if err := s.InjectPacket(cl, in); err != nil {
			panic(err)
		}
		answers = append(answers, <-got)
	})
	want := []answer{
		{"devices/sim-thermostat-0/responses", `{"cmd":"ping","id":"a","ok":true}`, ""},
		{"devices/sim-thermostat-0/responses", `{"cmd":"rate","ok":true,"rate":"1/s"}`, ""},
		{"devices/sim-thermostat-0/responses", `"rate":"10/s"`, ""},
		{"devices/sim-thermostat-0/responses", `want ping, status, rate or reboot`, ""},
		{"devices/sim-thermostat-0/responses", `neither a JSON nor a CBOR map`, ""},
		{"devices/sim-thermostat-0/responses", `{"cmd":"ping","ok":true}`, ""},
		{"operator/7", `{"cmd":"reboot","ok":true}`, "c-9"},
	}
	if len(answers) != len(want) {
		t.Fatalf("%d answers: %v", len(answers), answers)
	}
	for i, w := range want {
		if a := answers[i]; a.topic != w.topic || !strings.Contains(a.payload, w.payload) || a.correlation != w.correlation {
			t.Errorf("answer %d: %+v, want %+v", i, a, w)
		}
	}
	d := led.Devices[0]
	if d.Commands != 7 || d.Reboots != 1 || d.Acked < 400 {
		t.Errorf("%+v", d)
	}
	if n := len(s.rec.telemetry(d.Device)); int64(n) != d.Sent+d.Resent {
		t.Errorf("%d messages, ledger says %d sent and %d resent", n, d.Sent, d.Resent)
	}
}

func TestNumbersGoOnFromAnEarlierRun(t *testing.T) {
	var led *Ledger
	synctest.Test(t, func(t *testing.T) {
		s := newStandin(t)
		f, err := New(Config{Devices: 2, Duration: 10 * time.Second, Dial: s.dial, FirstSeq: map[string]int64{"sim-thermostat-1": 100}})
		if err != nil {
			t.Fatal(err)
		}
		led = f.Run(t.Context())
		s.close(t)
	})
	if a, b := led.Devices[0], led.Devices[1]; a.LastSeq != 9 || b.LastSeq != 109 || b.AckedSeqs.Contains(99) || !b.AckedSeqs.Contains(100) {
		t.Errorf("%+v", led.Devices)
	}
	path := filepath.Join(t.TempDir(), "ledger.json")
	if err := led.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	back, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	if back.Devices[1].AckedSeqs.Len() != 10 {
		t.Errorf("read back %+v", back.Devices[1])
	}
}

// No broker at all: the run ends in time and says what it could not deliver.
func TestNoBroker(t *testing.T) {
	led, _ := simulate(t, Config{Devices: 3, Duration: time.Minute, Drain: 5 * time.Second}, func(_ *Fleet, s *standin) { s.cut(true) })
	tot := led.Totals()
	if ran := led.Ended.Sub(led.Started); ran > 66*time.Second {
		t.Errorf("ran for %v", ran)
	}
	if tot.Acked+tot.Pending != 180 || tot.Acked > 6 {
		t.Errorf("%+v", tot)
	}
}

// The same over TCP, with more devices, stopped by hand.
func TestOverTCP(t *testing.T) {
	rec := &recorder{}
	srv := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	for _, h := range []mochi.Hook{rec} {
		if err := srv.AddHook(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := srv.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(); err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	f, err := New(Config{Broker: "mqtt://" + tcp.Address(), Devices: 100, Every: 20 * time.Millisecond, Faults: Faults{Reboot: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for tick := time.NewTicker(5 * time.Millisecond); f.Stats().Acked < 5000; {
			<-tick.C
		}
		cancel()
	}()
	led := f.Run(ctx)
	if tot := led.Totals(); tot.Acked < 5000 || tot.Acked != tot.Sent || tot.Pending != 0 || f.Stats().Connected != 0 {
		t.Errorf("%+v, %+v", tot, f.Stats())
	}
	for _, d := range led.Devices {
		var got Ranges
		for _, p := range rec.telemetry(d.Device) {
			got.Add(p.seq)
		}
		if missing := d.AckedSeqs.Minus(&got); len(missing) > 0 {
			t.Errorf("%s: acked but never received: %v", d.Device, missing)
		}
	}
}

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	_, err := New(Config{Broker: "http://x", Devices: -1, Profile: "toaster", Window: 5000, KeepAlive: time.Millisecond, Faults: Faults{Duplicates: 2}})
	for _, want := range []string{`scheme "http"`, "devices -1", "toaster", "window 5000", "keepalive 1ms", "duplicates 2"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %q: %v", want, err)
		}
	}
	for _, rate := range []string{"", "1", "0/s", "-1/s", "1/d", "NaN/s", "Inf/s", "1e9/s", "1e-9/h"} {
		if _, err := ParseRate(rate); err == nil {
			t.Errorf("rate %q was accepted", rate)
		}
	}
	for rate, want := range map[string]time.Duration{"1/s": time.Second, "0.5/s": 2 * time.Second, "30/m": 2 * time.Second, "2/h": 30 * time.Minute} {
		got, err := ParseRate(rate)
		if err != nil || got != want {
			t.Errorf("rate %q is %v, %v", rate, got, err)
		}
		if again, _ := ParseRate(FormatRate(got)); again != got {
			t.Errorf("rate %q prints as %q", rate, FormatRate(got))
		}
	}
	f, err := New(Config{Broker: "mqtt://me:secret@localhost"})
	if err != nil || f.cfg.username != "me" || f.cfg.password != "secret" || strings.Contains(redacted(f.cfg.Broker), "secret") {
		t.Errorf("%v %s", err, fmt.Sprint(redacted("mqtt://me:secret@localhost")))
	}
}
