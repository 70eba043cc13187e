package log

import (
	"fmt"
	"testing"
)

// benchRecord is a device's message as the MQTT side stores it: 256 bytes and the usual headers.
func benchRecord() Record {
	return Record{
		Timestamp: 1_700_000_000_000, Key: []byte("sim-thermostat-0042"), Value: make([]byte, 256),
		Headers: []Header{{[]byte("mqtt.topic"), []byte("devices/sim-thermostat-0042/telemetry")}, {[]byte("mqtt.client"), []byte("sim-thermostat-0042")}, {[]byte("mqtt.qos"), []byte("1")}},
	}
}

func benchBatch(tb testing.TB, c Compression, n int) Batch {
	var bb BatchBuilder
	bb.SetCompression(c)
	r := benchRecord()
	for i := range n {
		copy(r.Value, fmt.Sprintf(`{"seq":%d,"ts":%d,"temperature":%d}`, i, r.Timestamp+int64(i), 20+i%7))
		r.Timestamp++
		bb.Append(&r)
	}
	return bb.Seal(0, 1)
}

// One op is one record; a batch is sealed every 200.
func BenchmarkBuilder(b *testing.B) {
	var bb BatchBuilder
	r := benchRecord()
	b.SetBytes(int64(len(r.Value)))
	b.ReportAllocs()
	for b.Loop() {
		bb.Append(&r)
		if bb.Count() == 200 {
			bb.Seal(0, 1)
			bb.Reset()
		}
	}
}

// One op is one batch of 200 records.
func BenchmarkReader(b *testing.B) {
	for _, c := range allCodecs {
		b.Run(c.String(), func(b *testing.B) {
			batch := benchBatch(b, c, 200)
			var rr RecordReader
			var rec Record
			b.SetBytes(200 * 256)
			b.ReportAllocs()
			for b.Loop() {
				if err := rr.Reset(batch); err != nil {
					b.Fatal(err)
				}
				for {
					ok, err := rr.Next(&rec)
					if err != nil {
						b.Fatal(err)
					}
					if !ok {
						break
					}
				}
			}
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, c := range allCodecs {
		b.Run(c.String(), func(b *testing.B) {
			batch := benchBatch(b, c, 200)
			b.SetBytes(200 * 256)
			b.ReportAllocs()
			for b.Loop() {
				if err := batch.Validate(0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, c := range allCodecs {
		b.Run(c.String(), func(b *testing.B) {
			var bb BatchBuilder
			bb.SetCompression(c)
			r := benchRecord()
			for range 200 {
				bb.Append(&r)
			}
			b.SetBytes(200 * 256)
			b.ReportAllocs()
			for b.Loop() {
				bb.Seal(0, 1)
			}
		})
	}
}

// What the benchmarks show must not depend on somebody looking: building, sealing, checking and reading
// allocate nothing once buffers have grown.
func TestBatchPathsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools drop what they hold")
	}
	var bb BatchBuilder
	var rr RecordReader
	r := benchRecord()
	var rec Record
	for _, c := range []Compression{CompressionNone, CompressionSnappy, CompressionLZ4, CompressionZstd} {
		bb.SetCompression(c)
		got := testing.AllocsPerRun(100, func() {
			bb.Reset()
			for range 200 {
				bb.Append(&r)
			}
			b := bb.Seal(5, 1)
			if err := b.Validate(0); err != nil {
				t.Error(err)
			}
			if err := rr.Reset(b); err != nil {
				t.Error(err)
			}
			for {
				if ok, _ := rr.Next(&rec); !ok {
					return
				}
			}
		})
		// Per batch of 200 records; a pool may lose an entry to the garbage collector in between.
		if got > 2 {
			t.Errorf("%v: %v allocations per batch", c, got)
		}
	}
}
