package uplink

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
)

// compression is how batches are compressed, by its name in the configuration.
func compression(name string) (kgo.ProducerOpt, error) {
	switch name {
	case "gzip":
		return kgo.ProducerBatchCompression(kgo.GzipCompression()), nil
	case "snappy":
		return kgo.ProducerBatchCompression(kgo.SnappyCompression()), nil
	case "lz4":
		return kgo.ProducerBatchCompression(kgo.Lz4Compression()), nil
	case "zstd":
		z, err := newZstdCompressor()
		return kgo.WithCompressor(z), err
	}
	return kgo.ProducerBatchCompression(kgo.NoCompression()), nil
}

// zstdCompressor is one encoder for all batches of the target. kgo's own has one for each processor, each with a history of a MiB and a buffer for the largest batch there
// could be: on a gateway that is more than the records themselves.
type zstdCompressor struct {
	mu      sync.Mutex
	encoder *zstd.Encoder
}

// zstdWindow is what kgo has, too: batches are small.
const zstdWindow = 64 << 10

func newZstdCompressor() (*zstdCompressor, error) {
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(zstdWindow), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false),              // the batch has one
		zstd.WithAllLitEntropyCompression(true), // else hexadecimal and base64, of which payloads are full, go as they are
	)
	if err != nil {
		return nil, fmt.Errorf("compression zstd: %w", err)
	}
	return &zstdCompressor{encoder: e}, nil
}

// Compress is called by kgo, at once for different brokers. dst keeps what it has grown to; kgo knows by itself that what did not get smaller goes as it is.
func (z *zstdCompressor) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	if slices.Contains(flags, kgo.CompressDisableZstd) {
		return src, kgo.CodecNone
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.encoder.ResetContentSize(dst, int64(len(src)))
	_, err := z.encoder.Write(src)
	if err == nil {
		err = z.encoder.Close()
	}
	z.encoder.Reset(nil) // or it would hold dst
	if err != nil {
		return nil, kgo.CodecError
	}
	return dst.Bytes(), kgo.CodecZstd
}
