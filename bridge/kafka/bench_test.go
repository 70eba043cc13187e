package kafka

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"

	"github.com/weir-io/weir/log"
)

// batch64K is 64 KiB of records of 256 B.
func batch64K() log.Batch {
	var b log.BatchBuilder
	value := make([]byte, 240)
	for i := 0; b.Len() < 64<<10-300; i++ {
		b.Append(&log.Record{Timestamp: 1000 + int64(i), Key: fmt.Appendf(nil, "device-%03d", i%100), Value: value})
	}
	return append(log.Batch(nil), b.Seal(0, -1)...)
}

// pipeline sends the same produce request n times, at most depth ahead of its answers.
func pipeline(b testing.TB, c *rawConn, req kmsg.Request, n, depth int) {
	frame := binary.BigEndian.AppendUint32(nil, 0)
	frame = append(frame, frameOf(req, 1)...)
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	slots := make(chan struct{}, depth)
	failed := make(chan error, 1)
	go func() {
		for range n {
			slots <- struct{}{}
			if _, err := c.Write(frame); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	for range n {
		if _, body := c.readFrame(); body[len(body)-1] != 0 {
			b.Fatalf("unexpected answer %x", body)
		}
		<-slots
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFetchWarm reads 256 MiB of 64 KiB batches, 1 MiB per request, two requests
// ahead, with a reader that only counts.
func BenchmarkFetchWarm(b *testing.B) {
	_, addr := startServer(b, Config{})
	createTopic(b, addr, "t", 1, nil)
	c := dialRaw(b, addr)
	c.SetDeadline(noDeadline)
	batch := batch64K()
	const batches = 4096
	pipeline(b, c, produceRequest(9, "t", -1, batch), batches, 32)
	perBatch := int64(batch.Count())
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	b.ResetTimer()
	const ahead = 2
	perFetch := int64(1<<20) / int64(len(batch))
	request := func(i int64) []byte {
		frame := binary.BigEndian.AppendUint32(nil, 0)
		frame = append(frame, frameOf(fetchRequest(11, "t", 0, i*perFetch%(batches-perFetch)*perBatch), int32(i))...)
		binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
		return frame
	}
	sent := int64(0)
	for ; sent < ahead; sent++ {
		c.Write(request(sent))
	}
	discard := make([]byte, 256<<10)
	for read := int64(0); read < int64(b.N)*int64(len(batch)); {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			b.Fatal(err)
		}
		left := int(binary.BigEndian.Uint32(head[:]))
		if left < len(batch) { // at the end of a segment there may be one
			b.Fatalf("answer of %d bytes", left)
		}
		read += int64(left)
		for left > 0 {
			n, err := c.Read(discard[:min(left, len(discard))])
			if err != nil {
				b.Fatal(err)
			}
			left -= n
		}
		c.Write(request(sent))
		sent++
	}
}

// BenchmarkFetchBacklog asks for 64 partitions of which each has more than the answer can hold together: what a consumer costs that catches up.
func BenchmarkFetchBacklog(b *testing.B) {
	const parts = 64
	_, addr := startServer(b, Config{})
	createTopic(b, addr, "t", parts, nil)
	c := dialRaw(b, addr)
	c.SetDeadline(noDeadline)
	batches := make([][]byte, parts)
	for i := range batches {
		batches[i] = batch64K()
	}
	pipeline(b, c, produceRequest(9, "t", -1, batches...), 16, 4)
	req := fetchRequest(12, "t", 0, 0)
	for i := int32(1); i < parts; i++ {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchRequest(12, "t", i, 0).Topics[0].Partitions...)
	}
	frame := frameOf(req, 1)
	answer := make([]byte, 8<<20)
	var read int64
	b.ReportAllocs()
	for b.Loop() {
		c.sendFrame(frame)
		if _, err := io.ReadFull(c, answer[:4]); err != nil {
			b.Fatal(err)
		}
		n, err := io.ReadFull(c, answer[:binary.BigEndian.Uint32(answer)])
		if err != nil || n < 3<<20 {
			b.Fatalf("answer of %d bytes, %v", n, err)
		}
		read += int64(n)
	}
	b.SetBytes(read / int64(b.N))
}

// BenchmarkFetchWait waits for a record in any of 64 partitions: what a consumer costs that keeps up.
func BenchmarkFetchWait(b *testing.B) {
	const parts = 64
	_, addr := startServer(b, Config{})
	createTopic(b, addr, "t", parts, nil)
	asks := make(map[where]int64)
	for i := range int32(parts) {
		asks[where{"t", i}] = 0
	}
	c := newSessionReader(b, addr, 18, "t")
	c.SetDeadline(noDeadline)
	c.fetch(asks)
	producer := dialRaw(b, addr)
	producer.SetDeadline(noDeadline)
	var one log.BatchBuilder
	one.Append(&log.Record{Timestamp: 1000, Value: make([]byte, 100)})
	batch := one.Seal(0, -1)
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		req := c.request(map[where]int64{{"t", 0}: i})
		req.MaxWaitMillis = 60_000
		c.sendFrame(frameOf(req, 1))
		produceOne(producer, "t", batch)
		_, body := c.readFrame()
		resp := kmsg.NewPtrFetchResponse()
		resp.Version = c.version
		if err := resp.ReadFrom(body[1:]); err != nil {
			b.Fatal(err)
		}
		if got := c.read(resp); len(got) != 1 {
			b.Fatalf("told of %d partitions", len(got))
		}
	}
}

// BenchmarkFetchIdle asks for 100 partitions that have nothing new: what a consumer costs that keeps up.
func BenchmarkFetchIdle(b *testing.B) {
	const parts = 100
	_, addr := startServer(b, Config{})
	createTopic(b, addr, "t", parts, nil)
	asks := make(map[where]int64)
	for i := range int32(parts) {
		asks[where{"t", i}] = 0
	}
	for name, full := range map[string]bool{"full": true, "session": false} {
		b.Run(name, func(b *testing.B) {
			c := newSessionReader(b, addr, 18, "t")
			c.SetDeadline(noDeadline)
			c.fetch(asks)
			req := c.request(nil)
			if full {
				c.id, c.epoch = 0, epochNoSession
				req = c.request(asks)
			}
			frame := frameOf(req, 1)
			const epochAt = 2 + 2 + 4 + 2 + len("raw") + 1 + 4 + 4 + 4 + 1 + 4
			var head [4]byte
			answer := make([]byte, 64<<10)
			b.ReportAllocs()
			for b.Loop() {
				c.sendFrame(frame)
				if _, err := io.ReadFull(c, head[:]); err != nil {
					b.Fatal(err)
				}
				size := binary.BigEndian.Uint32(head[:])
				if _, err := io.ReadFull(c, answer[:size]); err != nil {
					b.Fatal(err)
				}
				if code := binary.BigEndian.Uint16(answer[9:]); code != 0 {
					b.Fatalf("error %d", code)
				}
				if !full {
					binary.BigEndian.PutUint32(frame[epochAt:], binary.BigEndian.Uint32(frame[epochAt:])+1)
				}
			}
		})
	}
}

// BenchmarkProduce64K is acks=-1 on a real disk, 32 requests ahead. Compare with
// BenchmarkWriteSync: the same bytes, written and synced by nobody but us.
func BenchmarkProduce64K(b *testing.B) {
	_, addr := startServer(b, Config{})
	createTopic(b, addr, "t", 1, nil)
	c := dialRaw(b, addr)
	c.SetDeadline(noDeadline)
	batch := batch64K()
	req := produceRequest(9, "t", -1, batch)
	pipeline(b, c, req, 64, 32)
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	b.ResetTimer()
	pipeline(b, c, req, b.N, 32)
}

// BenchmarkWriteSync writes 64 KiB at a time and syncs each MiB, twice: a journal and a
// segment are two copies.
func BenchmarkWriteSync(b *testing.B) {
	dir := b.TempDir()
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	for copies := range 2 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(copies)))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for i := range b.N {
			if _, err := f.Write(block); err != nil {
				b.Fatal(err)
			}
			if i%16 == 15 {
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}
