package mqtt

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// M11: a node that loses its sessions and gets them back before it has let go of them writes nothing of what it had then: another node has owned them in
// between. Here a session that has left its first owner ends there by the clock, and is the second owner's by then.
func TestNothingOfAnEarlierOwnershipIsStored(t *testing.T) {
	inCluster(t, 2, nil, func(t *testing.T, fc *fakeCluster) {
		id := fc.idAt(0)
		p := PartitionFor([]byte(id), fakePartitions)
		neighbour := ""
		for i := 0; neighbour == ""; i++ {
			if n := fmt.Sprintf("neighbour%d", i); PartitionFor([]byte(n), fakePartitions) == p {
				neighbour = n
			}
		}
		dev, _ := fc.nodes[0].v5(id, lasting(100))
		dev.subscribe("a", 1)
		hold := make(chan struct{})
		fc.mu.Lock()
		fc.nodes[1].hold = hold // a CONNECT at work keeps the node from letting go
		fc.mu.Unlock()
		fc.nodes[0].dial().write(append([]byte{0x10, byte(12 + len(neighbour)), 0, 4, 'M', 'Q', 'T', 'T', 4, 0, 0, 60, 0, byte(len(neighbour))}, neighbour...)...)
		synctest.Wait()
		fc.moveTo(p, 1)
		synctest.Wait()
		dev, ack := fc.nodes[1].v5(id, lasting(100))
		if !ack.SessionPresent {
			t.Fatal("the second owner does not know the session")
		}
		dev.subscribe("b", 1)
		for range 9 {
			time.Sleep(10 * time.Second)
			dev.write(0xc0, 0)
			dev.expect(0xd0, 0)
		}
		dev.bye()
		synctest.Wait()
		fc.moveTo(p, 0)
		time.Sleep(20 * time.Second) // the hundred seconds after the first owner saw it last are over
		close(hold)
		time.Sleep(5 * time.Second)
		if _, ack := fc.nodes[0].v5(id, lasting(100)); !ack.SessionPresent {
			t.Error("the session is gone")
		}
	})
}
