package log

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

func testPayloads() map[string][]byte {
	noise := make([]byte, 300_000)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	return map[string][]byte{
		"empty": {}, "one": {7}, "text": []byte(strings.Repeat("temperature=21.5 ", 20_000)), "noise": noise, "zeros": make([]byte, 1<<20),
	}
}

func TestCodecRoundTrip(t *testing.T) {
	for name, want := range testPayloads() {
		for _, c := range allCodecs {
			prefix := []byte("before")
			packed, err := Compress(bytes.Clone(prefix), c, want)
			if err != nil || !bytes.HasPrefix(packed, prefix) {
				t.Fatalf("%v %s: %v", c, name, err)
			}
			got, err := Decompress(bytes.Clone(prefix), c, packed[len(prefix):], len(want))
			if err != nil || !bytes.Equal(got, append(prefix, want...)) {
				t.Errorf("%v %s: %d bytes, %v", c, name, len(got), err)
			}
			if len(want) == 0 {
				continue
			}
			if _, err := Decompress(nil, c, packed[len(prefix):], len(want)-1); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v %s over the limit: %v", c, name, err)
			}
			if c != CompressionNone {
				cut := packed[len(prefix) : len(packed)-1]
				if _, err := Decompress(nil, c, cut, 2<<20); !errors.Is(err, ErrCorrupt) {
					t.Errorf("%v %s cut short: %v", c, name, err)
				}
			}
		}
	}
}

// javaLZ4 is a frame as KafkaLZ4BlockOutputStream writes it: version 01, independent blocks, 64 KiB,
// no checksums, header checksum right (KAFKA-3160), stored block (bit 31) "weir", end mark.
const javaLZ4 = "04224d18" + "60" + "40" + "82" + "04000080" + "77656972" + "00000000"

// javaSnappy is what SnappyOutputStream writes: magic, version 1, compatible 1, then one chunk each
// of raw snappy for "we" and "ir".
const javaSnappy = "82534e4150505900" + "00000001" + "00000001" + "00000004" + "02047765" + "00000004" + "02046972"

func TestDecompressReadsWhatTheJavaClientWrites(t *testing.T) {
	for c, text := range map[Compression]string{CompressionLZ4: javaLZ4, CompressionSnappy: javaSnappy} {
		src, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decompress(nil, c, src, 100)
		if err != nil || string(got) != "weir" {
			t.Errorf("%v: %q, %v", c, got, err)
		}
		if _, err := Decompress(nil, c, src, 3); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v over the limit: %v", c, err)
		}
	}
}

// What we write must be within what the Java client reads: LZ4 header flags, independent blocks of 64 KiB.
func TestLZ4FrameIsJavas(t *testing.T) {
	packed, err := Compress(nil, CompressionLZ4, bytes.Repeat([]byte("weir "), 40_000))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(packed[:7]); got != "04224d18604082" {
		t.Errorf("frame header %s", got)
	}
}

func TestDecompressOtherFrames(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	t.Run("lz4 with checksums, size and 4 MiB blocks", func(t *testing.T) {
		var buf bytes.Buffer
		w := lz4.NewWriter(&buf)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block4Mb), lz4.ChecksumOption(true), lz4.BlockChecksumOption(true), lz4.SizeOption(uint64(len(want)))); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(want)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := Decompress(nil, CompressionLZ4, buf.Bytes(), len(want)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("zstd stream without size, best level", func(t *testing.T) {
		var buf bytes.Buffer
		w, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(want); i += 1000 {
			_, _ = w.Write(want[i:min(i+1000, len(want))])
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := Decompress(nil, CompressionZstd, buf.Bytes(), len(want)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("snappy of s2", func(t *testing.T) {
		if got, err := Decompress(nil, CompressionSnappy, s2.EncodeSnappyBest(nil, want), len(want)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestDecompressRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		c   Compression
		hex string
	}{
		"unknown codec":             {5, "00"},
		"gzip empty":                {CompressionGzip, ""},
		"lz4 header checksum":       {CompressionLZ4, "04224d18604083" + "00000000"},
		"lz4 no end mark":           {CompressionLZ4, "04224d18604082" + "04000080" + "77656972"},
		"zstd garbage":              {CompressionZstd, "28b52ffd" + "ffffffff"},
		"snappy empty":              {CompressionSnappy, ""},
		"snappy claims 16 MiB":      {CompressionSnappy, "80808008" + "00"},
		"xerial chunk too long":     {CompressionSnappy, "82534e4150505900" + "00000001" + "00000001" + "7fffffff" + "00"},
		"xerial chunk length cut":   {CompressionSnappy, "82534e4150505900" + "00000001" + "00000001" + "0000"},
		"xerial header cut":         {CompressionSnappy, "82534e4150505900" + "00000001"},
		"xerial of a newer version": {CompressionSnappy, "82534e4150505900" + "00000002" + "00000002"},
	} {
		src, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := Decompress(nil, tt.c, src, 2<<30-1); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %d bytes, %v, want ErrCorrupt", name, len(out), err)
		}
	}
}

func TestParseCompression(t *testing.T) {
	for _, c := range allCodecs {
		if got, err := ParseCompression(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCompression("lzma"); err == nil {
		t.Error("lzma is accepted")
	}
}
