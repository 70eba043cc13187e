package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxTopicBytes is what an MQTT string can hold.
	maxTopicBytes = 65535
	// maxLevels bounds the levels of a filter, and with them the memory of one subscription. A topic
	// may have more: only '#' and shorter filters can match it.
	maxLevels = 200
	// sharePrefix opens a shared subscription (MQTT 5.0 §4.8.2). It is case-sensitive.
	sharePrefix = "$share/"
)

// ErrFilter: the text is no topic filter. The client is told 0x8F, topic filter invalid.
var ErrFilter = errors.New("invalid topic filter")

// ParseFilter checks a topic filter as it stands in SUBSCRIBE (MQTT 5.0 §4.7, §4.8.2) and splits a
// shared one, "$share/GROUP/FILTER"; group is empty for all others. Errors wrap ErrFilter.
func ParseFilter(s string) (group, filter string, err error) {
	if len(s) > maxTopicBytes || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return "", "", fmt.Errorf("%w: want valid UTF-8 without NUL, at most %d bytes", ErrFilter, maxTopicBytes)
	}
	filter = s
	if s == "$share" {
		return "", "", fmt.Errorf("%w: $share without a group", ErrFilter) // [MQTT-4.8.2-1]
	}
	if rest, shared := strings.CutPrefix(s, sharePrefix); shared {
		var ok bool
		if group, filter, ok = strings.Cut(rest, "/"); !ok || group == "" || strings.ContainsAny(group, "+#") { // [MQTT-4.8.2-2]
			return "", "", fmt.Errorf("%w: %q: want $share/GROUP/FILTER, no wildcard in GROUP", ErrFilter, s)
		}
	}
	if filter == "" {
		return "", "", fmt.Errorf("%w: empty", ErrFilter) // [MQTT-4.7.3-1]
	}
	levels := 0
	for rest, more := filter, true; more; levels++ {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more: // [MQTT-4.7.1-1]
			return "", "", fmt.Errorf("%w: %q: '#' must be the last level", ErrFilter, filter)
		case len(level) > 1 && strings.ContainsAny(level, "+#"): // [MQTT-4.7.1-2]
			return "", "", fmt.Errorf("%w: %q: a wildcard must be a whole level", ErrFilter, filter)
		}
	}
	if levels > maxLevels {
		return "", "", fmt.Errorf("%w: %d levels, at most %d", ErrFilter, levels, maxLevels)
	}
	return group, filter, nil
}

// validString tells whether MQTT allows the bytes as a string (§1.5.4).
func validString(s []byte) bool {
	return len(s) <= maxTopicBytes && utf8.Valid(s) && bytes.IndexByte(s, 0) < 0
}

// validTopic tells whether MQTT allows the bytes as a topic name (§4.7.3).
func validTopic(topic []byte) bool {
	if len(topic) == 0 || len(topic) > maxTopicBytes || !utf8.Valid(topic) {
		return false
	}
	for _, c := range topic {
		if c == 0 || c == '+' || c == '#' {
			return false
		}
	}
	return true
}

// cutLevel splits a topic after its first level.
func cutLevel(topic []byte) (level, rest []byte, more bool) {
	for i, c := range topic {
		if c == '/' {
			return topic[:i], topic[i+1:], true
		}
	}
	return topic, nil, false
}
