package schema

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/emicklei/proto"
)

// A frame of Protobuf names the message behind the schema's id: by its index among the messages of the file, then among those within it, and so on; as zigzag varints
// with their count before them, where a single zero byte stands for the first message.

const maxIndexes = 16 // of messages within each other

func appendIndexes(dst []byte, indexes []int) []byte {
	if len(indexes) == 1 && indexes[0] == 0 {
		return append(dst, 0)
	}
	dst = binary.AppendVarint(dst, int64(len(indexes)))
	for _, i := range indexes {
		dst = binary.AppendVarint(dst, int64(i))
	}
	return dst
}

// named parts the indexes from the payload behind them, and finds the version that holds payloads to the message that they name.
func (v *Version) named(body []byte) (*Version, []byte, error) {
	c, ok := v.checker.(*protoChecker)
	count, n := binary.Varint(body)
	if !ok || n <= 0 || count < 0 || count > maxIndexes {
		return nil, nil, errors.New("no indexes of a message stand behind the schema's id")
	}
	rest := body[n:]
	if count == 0 {
		count, rest = 1, body[n-1:] // the zero is its own index
	}
	var found *protoMessage
	list := c.file
	for range count {
		index, n := binary.Varint(rest)
		if n <= 0 || index < 0 || index >= int64(len(list)) {
			return nil, nil, fmt.Errorf("version %d has no message with the indexes that stand behind the schema's id", v.Number)
		}
		rest = rest[n:]
		found, list = list[index], list[index].nested
	}
	if found == c.message {
		return v, rest, nil
	}
	at := *v
	at.checker, at.indexes = &protoChecker{found, c.file}, string(body[:len(body)-len(rest)])
	return &at, rest, nil
}

var anyNumber = []proto.Range{{From: 1, Max: true}}
