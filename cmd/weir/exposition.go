package main

import (
	"bytes"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// The text format that Prometheus reads (version 0.0.4), written by hand: the common client library would bring protobuf
// and 2.4 MB of binary for what are four rules about a line. Tests read the result with the parser of that library.

// exposition collects one answer to a scrape.
type exposition struct{ bytes.Buffer }

// family begins a metric; its samples follow. A name that ends in _total is a counter, any other a gauge.
func (e *exposition) family(name, help string) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	e.familyOf(name, help, kind)
}

var helpEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`)

func (e *exposition) familyOf(name, help, kind string) {
	e.WriteString("# HELP " + name + " ")
	_, _ = helpEscapes.WriteString(e, help) // a Buffer never fails
	e.WriteString("\n# TYPE " + name + " " + kind + "\n")
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// sample writes one line; labels are names and values in turn.
func (e *exposition) sample(name string, value float64, labels ...string) {
	e.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		if i == 0 {
			e.WriteByte('{')
		} else {
			e.WriteByte(',')
		}
		e.WriteString(labels[i] + `="`)
		_, _ = labelEscapes.WriteString(e, strings.ToValidUTF8(labels[i+1], "\uFFFD"))
		e.WriteByte('"')
		if i+3 >= len(labels) {
			e.WriteByte('}')
		}
	}
	e.WriteByte(' ')
	e.Write(appendValue(e.AvailableBuffer(), value))
	e.WriteByte('\n')
}

// appendValue writes whole numbers in full: an offset of nine digits stays readable.
func appendValue(b []byte, v float64) []byte {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.AppendInt(b, int64(v), 10)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// metrics answers a scrape with the numbers of every room, of the Go runtime and of the process.
func (s *httpServer) metrics(w http.ResponseWriter, r *http.Request) {
	var e exposition
	nodeCollector{s.node}.collect(&e)
	runtimeMetrics(&e)
	processMetrics(&e, "/proc")
	h := w.Header()
	h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	h.Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_, _ = w.Write(e.Bytes()) // the client went away: nobody is left to tell
		return
	}
	h.Set("Content-Encoding", "gzip")
	if z, err := gzip.NewWriterLevel(w, gzip.StatelessCompression); err == nil { // keeps no memory between scrapes
		_, _ = z.Write(e.Bytes())
		_ = z.Close()
	}
}
