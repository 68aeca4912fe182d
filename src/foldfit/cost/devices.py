from dataclasses import dataclass
from foldfit.errors import *
@dataclass(frozen=True)
class Device:
    name:str; memory:int; reserved:int; bandwidth:float; peaks:dict; launch_seconds:float
    def peak(self,p):
        if p not in self.peaks: raise NotSupported(f"{self.name} no {p}")
        return self.peaks[p]
D={"h200":Device("H200",150754820096,10**9,4.27e12,dict(fp32=51e12,tf32=418e12,bf16=812e12,fp16=812e12),4e-6),"cpu":Device("cpu",20*2**30,0,20e9,dict(fp32=120e9,bf16=60e9,fp16=30e9,tf32=120e9),5e-6)}
def find_device(n): return D[n.lower()]
