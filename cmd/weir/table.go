package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table is the one way commands print rows: columns as wide as their widest cell, numbers to the right.
type table struct {
	head []string
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

// add appends a row; cells are formatted with %v and must be as many as the head has columns.
func (t *table) add(cells ...any) {
	if len(cells) != len(t.head) {
		panic(fmt.Sprintf("BUG: table row with %d cells under %d columns", len(cells), len(t.head)))
	}
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = printable(fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

// printable keeps a hostile key or client id from breaking the table or driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

func (t *table) write(w io.Writer) error {
	width := make([]int, len(t.head))
	figures := make([]int, len(t.head)) // cells that are one; "-" stands for one that is missing
	texts := make([]int, len(t.head))
	for i, h := range t.head {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
			switch {
			case numeric(c):
				figures[i]++
			case c != "-" && c != "":
				texts[i]++
			}
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			switch {
			case figures[i] > 0 && texts[i] == 0:
				b.WriteString(pad + c)
			case i == len(row)-1:
				b.WriteString(c)
			default:
				b.WriteString(c + pad)
			}
			if i < len(row)-1 {
				b.WriteString("  ")
			}
		}
		b.WriteByte('\n')
	}
	line(t.head)
	for _, row := range t.rows {
		line(row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// numeric reports whether a cell reads as a figure: digits first, perhaps a unit behind ("12.5 MB/s").
func numeric(s string) bool {
	s = strings.TrimPrefix(s, "-")
	digits := strings.TrimLeft(s, "0123456789.,")
	if len(digits) == len(s) {
		return false
	}
	digits = strings.TrimPrefix(digits, " ")
	return len(digits) <= 6 && !strings.ContainsAny(digits, "0123456789:-")
}

// emit prints v as one JSON document under --json, else the table.
func (g *Globals) emit(v any, t *table) error {
	if !g.JSON {
		return t.write(g.Out)
	}
	e := json.NewEncoder(g.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
