// A queue with priorities; written for kdaug, in the public domain (CC0-1.0).
export class Queue<T> {
  private items: { item: T; priority: number }[] = [];

  push(item: T, priority = 0): void {
    const at = this.items.findIndex((other) => other.priority < priority);
    this.items.splice(at < 0 ? this.items.length : at, 0, { item, priority });
  }

  pop(): T | undefined {
    return this.items.shift()?.item;
  }
}
