package schema

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/avro"
)

const (
	// maxAvroValues is how many values a record may have for each byte that it takes at least, and for one more. Nulls take no bytes, nor do records by
	// themselves: without a limit, a record of ten records of ten records … of nulls has millions of values in an empty payload.
	maxAvroValues = 8
	maxAvroTotal  = 1 << 20 // values of one record
)

var errNoBytes = errors.New("the items of an array take no bytes, so that a payload may have any number of them")

// checkAvroCost refuses schemas by which a payload could have far more values than bytes. // S1
func checkAvroCost(root *avro.SchemaNode) error {
	w := avroCosts{named: map[string]*avro.SchemaNode{}, done: map[string]avroCost{}, open: map[string]bool{}}
	w.collect(root, "")
	for _, n := range w.records {
		if _, err := w.of(n, n.Namespace); err != nil {
			return err
		}
	}
	for _, a := range w.arrays {
		switch item, err := w.of(a.items, a.namespace); {
		case err != nil:
			return err
		case item.bytes == 0:
			return errNoBytes
		}
	}
	return nil
}

// avroCost is what one value takes: bytes at least, and the values of which it is made. What arrays, maps and unions have in them has bytes of its own.
type avroCost struct{ bytes, values int }

type avroArray struct {
	items     *avro.SchemaNode
	namespace string // around it
}

type avroCosts struct {
	named   map[string]*avro.SchemaNode // records, and fixed and enum types
	records []*avro.SchemaNode
	arrays  []avroArray
	done    map[string]avroCost
	open    map[string]bool
}

func (w *avroCosts) collect(n *avro.SchemaNode, namespace string) {
	switch n.Type {
	case "record", "error":
		w.records = append(w.records, n)
		fallthrough
	case "enum", "fixed":
		w.named[avroName(n.Name, n.Namespace)] = n
		namespace = n.Namespace
	case "array":
		w.arrays = append(w.arrays, avroArray{n.Items, namespace})
		w.collect(n.Items, namespace)
	case "map":
		w.collect(n.Values, namespace)
	}
	for i := range n.Fields {
		w.collect(&n.Fields[i].Type, namespace)
	}
	for i := range n.Branches {
		w.collect(&n.Branches[i], namespace)
	}
}

func avroName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

func (w *avroCosts) of(n *avro.SchemaNode, namespace string) (avroCost, error) {
	switch n.Type {
	case "null":
		return avroCost{0, 1}, nil
	case "fixed":
		return avroCost{n.Size, 1}, nil
	case "float":
		return avroCost{4, 1}, nil
	case "double":
		return avroCost{8, 1}, nil
	case "boolean", "int", "long", "bytes", "string", "enum", "array", "map", "union":
		return avroCost{1, 1}, nil
	case "record", "error":
		return w.record(n)
	}
	for _, name := range []string{avroName(n.Type, namespace), n.Type} {
		if def := w.named[name]; def != nil {
			return w.of(def, def.Namespace)
		}
	}
	return avroCost{}, fmt.Errorf("%.100s is not defined", n.Type)
}

func (w *avroCosts) record(n *avro.SchemaNode) (c avroCost, err error) {
	name := avroName(n.Name, n.Namespace)
	if c, seen := w.done[name]; seen {
		return c, nil
	}
	if w.open[name] {
		return c, fmt.Errorf("record %.100s is within itself, and has no end", name)
	}
	w.open[name] = true
	c.values = 1
	for i := range n.Fields {
		f, err := w.of(&n.Fields[i].Type, n.Namespace)
		if err != nil {
			return c, err
		}
		if c.bytes, c.values = c.bytes+f.bytes, c.values+f.values; c.values > maxAvroTotal {
			break
		}
	}
	if c.values > maxAvroTotal || c.values > maxAvroValues*(1+c.bytes) {
		return c, fmt.Errorf("record %.100s has %d values in %d bytes: more than %d in all, or %d for each byte", name, c.values, c.bytes, maxAvroTotal, maxAvroValues)
	}
	w.open[name], w.done[name] = false, c
	return c, nil
}
