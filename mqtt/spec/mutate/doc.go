// Package mutate breaks the MQTT rooms on purpose, one rule at a time, and demands that a test which is annotated
// with that rule fails. An annotation says that a test proves a statement; this is the proof of the annotation.
//
// mutations.txt lists them in the form of a small patch:
//
//	= MQTT5 3.1.2-3, MQTT3 3.1.2-3: the reserved connect flag is not looked at
//	mqtt/packet/adapter.go
//	-	case flags&flagReserved != 0: // MQTT5 [MQTT-3.1.2-3]
//	+	case false:
//
// Before the colon stand the statements, after it what is broken. Lines with a space in front stay as they are
// and say where the place is; a line of "~" begins another hunk in the same file. A rule without a number in the
// standards names its test instead, as packet.TestBadPublish.
//
// A mutation holds when
//   - the text of each hunk stands in the file exactly once, so that the list cannot fall behind the code,
//   - the statement has an annotated test,
//   - with the file replaced (go test -overlay; nothing is written to the tree) one of these tests fails by itself:
//     a build that fails, a panic and a time-out catch nothing.
//
// `make mutate` tries all of them. `make test` and `make check` check the list and try five, drawn anew each time;
// WEIR_MUTATE=SEED repeats a draw, WEIR_MUTATE='3.1.2-8: ' tries the entries that hold these words.
package mutate
