package tokenvault

import (
	"errors"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "tokenvault.example/client/go/tokenvault/v1"
)

const lookEvery = time.Second

var errClosed = errors.New("tokenvault: the client is closed")

// connections gives the connection to call by: a new one where the files have
// changed. The old one ends with the last call on it.
type connections struct {
	config Config

	lock    sync.Mutex
	current *connection
	files   [3]os.FileInfo
	lookAt  time.Time
	closed  bool
}

type connection struct {
	*grpc.ClientConn
	stub  pb.TokenVaultClient
	calls sync.WaitGroup
}

func open(config Config) (*connections, error) {
	c := &connections{config: config, files: config.stamps(), lookAt: time.Now().Add(lookEvery)}
	return c, c.replace()
}

// use gives a connection that stays open until its calls are done: call
// calls.Done.
func (c *connections) use() (*connection, error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if now := time.Now(); !now.Before(c.lookAt) {
		c.lookAt = now.Add(lookEvery)
		// Files that are half-written are looked at again, and change nothing.
		if files := c.config.stamps(); changed(files, c.files) && c.replace() == nil {
			c.files = files
		}
	}
	c.current.calls.Add(1)
	return c.current, nil
}

func (c *connections) replace() error {
	fresh, err := c.config.connect()
	if err != nil {
		return err
	}
	if old := c.current; old != nil {
		go func() {
			old.calls.Wait()
			_ = old.Close()
		}()
	}
	c.current = &connection{ClientConn: fresh, stub: pb.NewTokenVaultClient(fresh)}
	return nil
}

func (c *connections) close() error {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.current.Close()
}

func (c Config) stamps() (all [3]os.FileInfo) {
	for i, name := range []string{c.CA, c.Certificate, c.PrivateKey} {
		all[i], _ = os.Stat(name) // nil where it is missing
	}
	return all
}

func changed(now, before [3]os.FileInfo) bool {
	for i, file := range now {
		old := before[i]
		if file == nil || old == nil {
			if file != old {
				return true
			}
		} else if !os.SameFile(file, old) || !file.ModTime().Equal(old.ModTime()) || file.Size() != old.Size() {
			return true
		}
	}
	return false
}
