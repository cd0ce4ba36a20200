// A part of runtime.cpp: where an access lies, and whether a barrier orders it behind those of other threads.

Region* region_of(const char* address) {
  if (last_region && address >= last_region->begin && address < last_region->end) return last_region;
  for (Region& region : regions)
    if (address >= region.begin && address < region.end) return last_region = &region;
  return nullptr;
}

void refine(Region& region, int granule) {
  const int parts = region.granule / granule;
  std::vector<Cell> cells;
  cells.reserve(region.cells.size() * parts);
  for (const Cell& cell : region.cells) cells.insert(cells.end(), parts, cell);
  region.cells.swap(cells);
  region.granule = granule;
}

// whether nothing orders an earlier access before one of the current thread
bool races(const Mark& mark, bool atomic) {
  if (mark.serial < first_serial || (mark.atomic && atomic)) return false;
  if (mark.serial != serial || mark.blocks) return true;
  if (mark.thread == current->number || mark.block_epoch < current->block_epoch) return false;
  return !(mark.warp == current->warp && mark.warp_epoch < current->warp_epoch);
}

Mark mark_of(bool atomic) {
  return {serial, current->block_epoch, current->warp_epoch, short(current->number), short(current->warp), atomic, false};
}

void remember_reader(Mark& reader) {
  const Mark before = reader;
  reader = mark_of(false);
  if (before.serial < first_serial) return;
  reader.blocks = before.blocks || before.serial != serial;
  if (before.serial != serial || before.block_epoch != reader.block_epoch) return;
  if (before.thread != reader.thread) reader.thread = -1;
  if (before.warp != reader.warp) reader.warp = -1;
}

const char* name_of(const Region& region) {
  static char text[32];
  if (region.number < 0) return "shared memory";
  snprintf(text, sizeof text, "buffer %d", region.number);
  return text;
}

void outside(const char* address, int size, bool write) {
  const char* verb = write ? "writes" : "reads";
  const Region* nearest = nullptr;
  long long least = 0;
  for (const Region& region : regions) {
    const long long distance = address < region.begin ? region.begin - address : address - region.end + 1;
    if (!nearest || distance < least) nearest = &region, least = distance;
  }
  if (!nearest) return fail("%s %d bytes outside of all memory", verb, size);
  fail("%s %d bytes at byte %lld of %s, which has %lld", verb, size, (long long)(address - nearest->begin), name_of(*nearest),
       (long long)(nearest->end - nearest->begin));
}

void access(const void* pointer, int size, bool write, bool atomic = false) {
  if (!current || failed) return;
  const char* address = static_cast<const char*>(pointer);
  if (address >= stacks && address < stacks + (long long)MOST_THREADS * STACK_BYTES) return;
  if (schedule == RANDOM && random_number() % 32 == 0) give_way();
  if (++accesses > MOST_ACCESSES) return fail("comes to no end");
  Region* region = region_of(address);
  if (!region) {
    if (address >= image_begin && address < image_end) return;
    return outside(address, size, write);
  }
  if (address + size > region->end) return outside(address, size, write);
  if ((size & (size - 1)) == 0 && size <= 16 && reinterpret_cast<unsigned long long>(address) % size)
    return fail("byte %lld of %s, the first of %d, is not aligned", (long long)(address - region->begin), name_of(*region), size);
  if (write && !region->writable) return fail("writes to %s, which is const", name_of(*region));
  const long long offset = address - region->begin;
  while (region->granule > 1 && (offset % region->granule || size % region->granule)) refine(*region, region->granule / 2);
  for (long long i = offset / region->granule; i < (offset + size) / region->granule; ++i) {
    Cell& cell = region->cells[i];
    if (region->number < 0 && !write && cell.writer.serial != serial)
      return fail("reads byte %lld of shared memory, which no thread of the block has written", offset);
    const bool stale = region->number < 0 && cell.writer.serial != serial && cell.reader.serial != serial;
    if (stale) cell = {};
    if (races(cell.writer, atomic))
      return fail("%s byte %lld of %s, which another thread writes with no barrier between", write ? "writes" : "reads", offset,
                  name_of(*region));
    if (write && races(cell.reader, atomic))
      return fail("writes byte %lld of %s, which another thread reads with no barrier between", offset, name_of(*region));
    if (write) cell.writer = mark_of(atomic);
    else remember_reader(cell.reader);
  }
}

Region region_at(const char* begin, long long size, int number, bool writable) {
  const int granule = 4;
  return {begin, begin + size, number, writable, granule, std::vector<Cell>(size / granule + 1)};
}
