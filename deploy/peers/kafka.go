package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// The Kafka side has its own peers: the disk itself for produce, a plain number for fetch, and the fake broker of the
// client library for what an application gets.

const (
	kafkaTopic  = "bench"
	kafkaSize   = 256
	warmRecords = 4 << 20 // 1 GiB of values
	wantFetch   = 1000.0  // MB/s
)

// kafkaFigures are one round's, in MB/s of record values.
type kafkaFigures struct {
	produce, syncEachMiB, syncOnce float64 // raw produce, and the same bytes twice by nobody but us
	fetch                          float64 // raw, warm
	weirProduce, weirFetch         float64 // through franz-go
	fakeProduce, fakeFetch         float64
}

// compareKafka runs every round and prints one table.
func compareKafka(weir, built string, rounds int, d time.Duration) error {
	var all []kafkaFigures
	for round := range rounds {
		f, err := kafkaRound(weir, built, d, func(step string) {
			fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d: %s", round+1, rounds, step)
		})
		if err != nil {
			fmt.Fprintln(os.Stderr)
			return err
		}
		all = append(all, f)
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	fmt.Printf("Kafka protocol, 16 partitions, records of %d B, acks=all; %d rounds, median (min–max)\n", kafkaSize, rounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\tMB/s\tbeside\tMB/s\tratio\twanted")
	row := func(load string, a func(kafkaFigures) float64, beside string, b func(kafkaFigures) float64, ratio func(a, b float64) float64, wanted string) {
		cell := func(pick func(kafkaFigures) float64) string {
			low, mid, high := spread(all, pick)
			return fmt.Sprintf("%.0f (%.0f–%.0f)", mid, low, high)
		}
		r := func(f kafkaFigures) float64 { return ratio(a(f), b(f)) }
		low, mid, high := spread(all, r)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.2f (%.2f–%.2f)\t%s\n", load, cell(a), beside, cell(b), mid, low, high, wanted)
	}
	slower := func(a, b float64) float64 { return b / a }
	share := func(a, b float64) float64 { return a / b }
	produce := func(f kafkaFigures) float64 { return f.produce }
	row("produce, 64 KiB batches", produce, "write twice, sync each MiB", func(f kafkaFigures) float64 { return f.syncEachMiB }, slower, "time ≤ 1.5 times")
	row("produce, 64 KiB batches", produce, "write twice, sync once each", func(f kafkaFigures) float64 { return f.syncOnce }, slower, "")
	row("fetch of a warm GiB", func(f kafkaFigures) float64 { return f.fetch }, "1 GB/s", func(kafkaFigures) float64 { return wantFetch }, share, "≥ 1")
	row("franz-go produce", func(f kafkaFigures) float64 { return f.weirProduce }, "kfake", func(f kafkaFigures) float64 { return f.fakeProduce }, share, "≥ 0.6")
	row("franz-go consume", func(f kafkaFigures) float64 { return f.weirFetch }, "kfake", func(f kafkaFigures) float64 { return f.fakeFetch }, share, "≥ 0.8")
	return w.Flush()
}

// kafkaRound measures everything once, each thing next to what it is compared with.
func kafkaRound(weir, built string, d time.Duration, say func(string)) (f kafkaFigures, err error) {
	serve := peer{name: "weir", command: []string{weir, "serve", "--config", "%DIR%/conf", "--data", "%DIR%/data", "--mqtt", "127.0.0.1:0", "--mqtt-ws", "", "--kafka", "%LISTEN%", "--http", ""},
		conf: "topics: {partitions: 16}\n"}
	fake := peer{name: "kfake", command: []string{filepath.Join(built, "kfake"), "--listen", "%LISTEN%"}}
	raw := []string{"--client", "raw"}
	kgo := []string{"--client", "kgo"}
	say("produce")
	err = withKafka(serve, weir, func(b *kafkaLoad) error {
		r, err := b.run("produce", d, raw...)
		if err != nil {
			return err
		}
		f.produce = r.MBPerSecond
		bytes := int64(r.MBPerSecond * 1e6 * r.Seconds)
		say("the disk alone")
		if f.syncEachMiB, err = writeTwice(b.dir, bytes, 1<<20); err == nil {
			f.syncOnce, err = writeTwice(b.dir, bytes, bytes)
		}
		return err
	})
	if err != nil {
		return f, err
	}
	say("fetch")
	err = withKafka(serve, weir, func(b *kafkaLoad) error {
		// Fetch what is surely written and warm: a GiB, made just now.
		if _, err := b.run("produce", 10*time.Minute, append(raw, "--records", fmt.Sprint(warmRecords))...); err != nil {
			return err
		}
		r, err := b.run("fetch", d, raw...)
		f.fetch = r.MBPerSecond
		return err
	})
	if err != nil {
		return f, err
	}
	for _, p := range []struct {
		peer
		produce, fetch *float64
	}{{serve, &f.weirProduce, &f.weirFetch}, {fake, &f.fakeProduce, &f.fakeFetch}} {
		say("franz-go with " + p.name)
		err := withKafka(p.peer, weir, func(b *kafkaLoad) error {
			r, err := b.run("produce", d, kgo...)
			if err != nil {
				return err
			}
			*p.produce = r.MBPerSecond
			r, err = b.run("fetch", d, kgo...)
			*p.fetch = r.MBPerSecond
			return err
		})
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// kafkaLoad is a broker under `weir bench kafka`.
type kafkaLoad struct {
	*broker
	weir string
	dir  string // the broker's, on the working directory's disk, which is no tmpfs
}

// withKafka starts the broker on a fresh directory, lets use work with it, and stops it.
func withKafka(p peer, weir string, use func(*kafkaLoad) error) error {
	dir, err := os.MkdirTemp(".", "peers-run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	b, err := start(p, dir)
	if err != nil {
		return err
	}
	defer b.stop()
	return use(&kafkaLoad{b, weir, dir})
}

// kafkaRun is what one load printed.
type kafkaRun struct {
	MBPerSecond float64 `json:"mb_per_s"`
	Seconds     float64 `json:"seconds"`
}

func (l *kafkaLoad) run(what string, d time.Duration, args ...string) (r kafkaRun, err error) {
	args = append([]string{"bench", "kafka", what, "--json", "--bootstrap", l.listen, "--topic", kafkaTopic, "--duration", d.String()}, args...)
	bench := exec.Command(l.weir, args...)
	var out, errs bytes.Buffer
	bench.Stdout, bench.Stderr = &out, &errs
	if err := bench.Run(); err != nil {
		return r, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%s printed no figures: %w", strings.Join(args, " "), err)
	}
	return r, nil
}

// writeTwice writes bytes to two files, one after the other, and syncs each time so many have been written. It returns
// the MB/s of the bytes themselves, so that it compares with what a log does that keeps them twice.
func writeTwice(dir string, bytes, syncEvery int64) (_ float64, err error) {
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i * 7)
	}
	began := time.Now()
	for _, name := range []string{"first", "second"} {
		if err := writeSynced(filepath.Join(dir, name), block, bytes, syncEvery); err != nil {
			return 0, err
		}
	}
	took := time.Since(began)
	err = errors.Join(os.Remove(filepath.Join(dir, "first")), os.Remove(filepath.Join(dir, "second")))
	return float64(bytes) / 1e6 / took.Seconds(), err
}

func writeSynced(name string, block []byte, bytes, syncEvery int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for unsynced := int64(0); bytes > 0; bytes -= int64(len(block)) {
		if _, err := f.Write(block); err != nil {
			return err
		}
		if unsynced += int64(len(block)); unsynced >= syncEvery || bytes <= int64(len(block)) {
			if err := syscall.Fdatasync(int(f.Fd())); err != nil {
				return err
			}
			unsynced = 0
		}
	}
	return nil
}
