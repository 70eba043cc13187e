// Command mongodb serves MongoDB's protocol with FerretDB over SQLite. It is a module of its own: nothing of weir's needs what it needs. Arguments: address, directory.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	f, err := ferretdb.New(&ferretdb.Config{Listener: ferretdb.ListenerConfig{TCP: os.Args[1]}, Handler: "sqlite", SQLiteURL: "file:" + os.Args[2] + "/"})
	if err == nil {
		err = f.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, "mongodb:", err)
	os.Exit(1)
}
