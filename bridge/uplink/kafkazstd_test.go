package uplink

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What several brokers are sent at once comes out as it was, whatever its size and however little it can be compressed.
func TestZstdGivesBack(t *testing.T) {
	z, err := newZstdCompressor()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for broker := range uint64(4) {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(broker, 1))
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			var dst bytes.Buffer
			for _, size := range []int{1, 255, 256, 1000, zstdWindow, zstdWindow + 1, 128 << 10, 128<<10 + 1, usualBatch, 3 << 20, 17} {
				for _, letters := range []string{"a", "0123456789abcdef", ""} {
					src := make([]byte, size)
					for i := range src {
						if src[i] = byte(rng.Uint32()); letters != "" {
							src[i] = letters[int(src[i])%len(letters)]
						}
					}
					dst.Reset()
					out, codec := z.Compress(&dst, src)
					back, err := d.DecodeAll(out, nil)
					if err != nil || codec != kgo.CodecZstd || !bytes.Equal(back, src) {
						t.Errorf("%d bytes of %q: codec %d, %v", size, letters, codec, err)
					}
					if letters != "" && size > 1000 && len(out) > size*6/10 {
						t.Errorf("%d bytes of %q became %d", size, letters, len(out))
					}
				}
			}
		})
	}
	all.Wait()
	if out, codec := z.Compress(&bytes.Buffer{}, []byte("old"), kgo.CompressDisableZstd); string(out) != "old" || codec != kgo.CodecNone {
		t.Errorf("a broker that does not know zstd gets %q, codec %d", out, codec)
	}
}

// Each name that the configuration takes is that codec.
func TestCompressionByName(t *testing.T) {
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		opt, err := compression(name)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kgo.NewClient(opt)
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		switch c := client.OptValue(kgo.WithCompressor).(type) {
		case *zstdCompressor:
			got = "zstd"
		case kgo.Compressor:
			if c != nil {
				_, codec := c.Compress(&bytes.Buffer{}, make([]byte, 1000))
				got = []string{"none", "gzip", "snappy", "lz4"}[codec]
			}
		}
		client.Close()
		if got != name {
			t.Errorf("%s is %s", name, got)
		}
	}
}
