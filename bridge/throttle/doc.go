// Package throttle counts what clients take of something that is limited for them, and says how long who took too much is to keep still.
//
// It is pure: no goroutine, no clock, no I/O, standard library only. The time is an argument, measured from any moment that stays the same. Who is
// limited, and to what, is the caller's to know (bridge/kafka), and so is the lock.
//
// # What it holds to
//
//   - T1  Over any stretch of time a client takes no more than limit × (stretch + Window), but for the last thing that it asked for: that is given whole, and
//     waited for afterwards. So an idle client may take a Window's worth at once, as with Apache Kafka, whose default window is as long; unlike there
//     what went beyond is not forgotten with the window, and the average holds for requests larger than a window too.
//   - T2  Nobody waits longer than MaxWait; what he owes beyond that is let off.
//   - T3  A Table has no more meters than its limit, and one for each rule. A meter from which all has drained is like a new one, and is forgotten; who
//     finds no room shares a meter with others of his rule.
package throttle
