/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright ovc_plugin contributors */
/*
 * The touched memory: one growing array of private anonymous pages.
 *
 * Each page's content follows from its tag alone, so that verify can compute it again and
 * compare every byte: lost, stale and swapped-about pages all show. Tags are never zero.
 */
#include "workload.h"

#include <string.h>
#include <sys/mman.h>

#define WORDS_PER_PAGE (PAGE / sizeof(uint64_t))
#define ALIKE_BIT (1ULL << 63)

static uint64_t *memory;   /* pages_open's reservation; the first `count` pages are touched */
static uint64_t *tags;     /* one per page, outside of what is measured */
static uint64_t count, capacity_pages, boot_seed;
static uint64_t writes;    /* unique contents made so far: none is ever made twice */
static uint64_t alikes;    /* alike pages held: the next one's ordinal */

/* A mixing step with full avalanche, so that neighbouring tags give unrelated pages. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* Alike pages leave the boot seed out: the n-th of every guest is the same. */
static uint64_t seed_of(uint64_t tag)
{
    uint64_t seed = tag & ALIKE_BIT ? mix(tag) : mix(tag ^ boot_seed);

    return seed == 0 ? 1 : seed; /* zero would stay zero for ever */
}

/* Xorshift: shifts only, since multiplication is dear for an emulated processor. */
static inline uint64_t step(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ (x << 17);
}

static void compose(uint64_t tag, uint64_t *words)
{
    uint64_t x = seed_of(tag);

    for (size_t i = 0; i < WORDS_PER_PAGE; i++)
        words[i] = x = step(x);
}

static void fill(uint64_t index)
{
    compose(tags[index], memory + index * WORDS_PER_PAGE);
}

/* Unique content for a page that is not one of ours, such as one on its way to the disk. */
void pages_compose(void *page)
{
    compose(++writes, page);
}

static void *reserve(uint64_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return start == MAP_FAILED ? NULL : start;
}

/* Address space for CAPACITY bytes; memory is taken page by page, by pages_add. */
bool pages_open(uint64_t capacity, uint64_t seed)
{
    boot_seed = seed;
    capacity_pages = capacity / PAGE;
    memory = reserve(capacity_pages * PAGE);
    tags = reserve(capacity_pages * sizeof *tags);
    return memory != NULL && tags != NULL;
}

uint64_t pages_base(void)
{
    return (uint64_t)memory;
}

uint64_t pages_count(void)
{
    return count;
}

/* False where the reserved address space is used up. */
bool pages_add(enum kind kind)
{
    if (count == capacity_pages)
        return false;
    tags[count] = kind == ALIKE ? ALIKE_BIT | alikes++ : ++writes;
    fill(count);
    count++;
    return true;
}

/* UNIQUE gives the page new content; SAME writes what it holds again (breaks sharing for a while). */
void pages_rewrite(uint64_t index, enum kind kind)
{
    if (kind == UNIQUE)
        tags[index] = ++writes;
    fill(index);
}

void pages_read(uint64_t index)
{
    (void)*(volatile uint64_t *)(memory + index * WORDS_PER_PAGE);
}

bool pages_check(uint64_t index)
{
    uint64_t x = seed_of(tags[index]), *words = memory + index * WORDS_PER_PAGE;

    for (size_t i = 0; i < WORDS_PER_PAGE; i++)
        if (words[i] != (x = step(x)))
            return false;
    return true;
}

/* Gives the last COUNT pages back to the guest's kernel. */
void pages_drop(uint64_t pages)
{
    for (uint64_t i = count - pages; i < count; i++)
        if (tags[i] & ALIKE_BIT) {
            alikes = tags[i] & ~ALIKE_BIT; /* ordinals grow with the index: the lowest dropped is next */
            break;
        }
    count -= pages;
    if (count == 0)
        alikes = 0;
    madvise(memory + count * WORDS_PER_PAGE, pages * PAGE, MADV_DONTNEED);
}
