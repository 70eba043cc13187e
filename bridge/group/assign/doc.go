// Package assign spreads partitions over the members of a consumer group: the
// assignors that a broker has in the consumer protocol (KIP-848).
//
// An assignor is a function of what each member reads and of what it was given
// last. Both hold to this, whatever the input:
//
//	S1  A partition that somebody reads is given to one member, which reads it;
//	    others are given to nobody.
//	S2  What an assignor gave, it gives again to the same members: a group that
//	    is looked at once more does not move.
//	S3  The order of the members does not matter: two brokers that know the same
//	    decide the same.
//
// Uniform evens out how many partitions each member has and moves as few as
// that takes: where all members read the same topics no two differ by more than
// one, else no single move makes it more even. Range gives each member one run
// of neighbours from every topic, the same run of all topics with so many
// partitions and readers, so that a join finds both sides at one member; it
// does not look at what was given last.
//
// Racks are not looked at: a site's replicas are a cable apart.
package assign
