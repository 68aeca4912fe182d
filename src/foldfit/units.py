from foldfit.errors import BadInput
import re
U={"B":1,"KiB":2**10,"MiB":2**20,"GiB":2**30,"TiB":2**40,"kB":10**3,"MB":10**6,"GB":10**9,"TB":10**12}
def parse_bytes(t):
    m=re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)",t.strip())
    if not m or m[2] not in U: raise BadInput(f"bad {t}")
    return int(float(m[1])*U[m[2]])
def parse_memory(t,total,reserved=0):
    if t=="auto": return total-reserved
    if t.endswith("%"): return int(float(t[:-1])/100*total)
    return parse_bytes(t)
def format_bytes(n,up=False): return f"{n/2**30:.2f} GiB" if n>2**30 else f"{n/2**20:.1f} MiB"
def format_seconds(s): return f"{s:.2f} s" if s>=1 else f"{s*1e3:.2f} ms"
